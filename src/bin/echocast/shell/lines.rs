//! The lines that a pipe brings, as messages.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// The longest line, in bytes. Without a limit, an input without line ends would fill the memory.
const LONGEST_LINE: u64 = 16 << 20;
/// Lines that are read ahead.
const READ_AHEAD: usize = 16;

/// Lines end with the first error.
pub(super) type Lines = mpsc::Receiver<io::Result<Message>>;

/// First the texts, then, with `read_input`, the lines of standard input. They are read only as
/// fast as they are taken.
pub(super) fn read(texts: Vec<String>, read_input: bool) -> Lines {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    // A thread of its own, because a read that waits for a pipe cannot be cancelled, and it must
    // not delay the exit.
    thread::spawn(move || {
        // Texts from the command line are UTF-8 already.
        let texts = texts.into_iter().map(|text| Ok(Message::text(text)));
        if read_input {
            send_all(texts.chain(input()), &sender);
        } else {
            send_all(texts, &sender);
        }
    });
    receiver
}

fn input() -> impl Iterator<Item = io::Result<Message>> {
    let mut input = BufReader::new(io::stdin());
    std::iter::from_fn(move || read_line(&mut input).transpose())
}

fn send_all(
    lines: impl Iterator<Item = io::Result<Message>>,
    sender: &mpsc::Sender<io::Result<Message>>,
) {
    for line in lines {
        let is_last = line.is_err();
        if sender.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// A line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut line = Vec::new();
    // One byte more than allowed, so that a longer line is noticed.
    if input.take(LONGEST_LINE + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 > LONGEST_LINE {
        let problem = format!("a line is longer than {LONGEST_LINE} bytes");
        return Err(io::Error::other(problem));
    }
    strip_line_end(&mut line);
    Ok(Some(message(line)))
}

/// A line that is not UTF-8 is sent as binary, so that every byte arrives.
fn message(line: Vec<u8>) -> Message {
    match String::from_utf8(line) {
        Ok(text) => Message::text(text),
        Err(error) => Message::binary(error.into_bytes()),
    }
}

fn strip_line_end(line: &mut Vec<u8>) {
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
}
