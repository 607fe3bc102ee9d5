//! The shell without a terminal: lines in, messages out, nothing else on standard output. It never reconnects: a script
//! must learn that lines may not have arrived.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use crate::connect::{Dialer, End, Event, Output, Stop, notice};

/// How long a line may take to come back, counted from the last progress made.
const ECHO_WAIT: Duration = Duration::from_secs(2);
/// Lines and bytes said and not heard back; at the bound the input is not read. Also what keeps a fast pipe from
/// outrunning its own reader.
const WINDOW_LINES: usize = 1024;
const WINDOW_BYTES: usize = 16 << 20;
/// The longest line, or a pipe without line ends would fill the memory.
const LONGEST_LINE: u64 = 16 << 20;

/// When to close after the last line.
pub(crate) enum Ending {
    /// When the lines have been heard back.
    Heard,
    After(Duration),
    Never,
}

/// The texts, then, if `read_input`, the lines of standard input; read only as fast as they are taken.
pub(crate) fn lines(texts: Vec<String>, read_input: bool) -> mpsc::Receiver<io::Result<Message>> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread, because a read that waits for a pipe cannot be given up: it must not hold up the exit.
    thread::spawn(move || {
        let texts = texts.into_iter().map(|text| Ok(Message::text(text)));
        let mut input = BufReader::new(io::stdin());
        let input = std::iter::from_fn(|| read_line(&mut input).transpose());
        for line in texts.chain(input.take(if read_input { usize::MAX } else { 0 })) {
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// A line without its end, as text; what is not UTF-8 goes as binary, so that every byte arrives.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut line = Vec::new();
    if input.take(LONGEST_LINE + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 > LONGEST_LINE {
        return Err(io::Error::other(format!("a line is longer than {LONGEST_LINE} bytes")));
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
    Ok(Some(String::from_utf8(line).map_or_else(|error| Message::binary(error.into_bytes()), Message::text)))
}

pub(crate) async fn run(
    mut dialer: Dialer,
    mut stop: Stop,
    mut lines: mpsc::Receiver<io::Result<Message>>,
    ending: Ending,
    show_ping_pong: bool,
) -> anyhow::Result<ExitCode> {
    let dialed = tokio::select! {
        dialed = dialer.dial() => dialed,
        () = stop.requested() => return Ok(ExitCode::FAILURE),
    };
    let mut connection = match dialed {
        Ok(connection) => connection,
        Err(error) => return Ok(failure(&error.to_string())),
    };
    let output = Output::new();
    let mut unheard = Unheard::new(matches!(ending, Ending::Heard));
    let mut said = 0_u64;
    let mut input_ended: Option<Instant> = None;
    let mut leaving = false;
    let mut outcome = ExitCode::SUCCESS;
    let end = loop {
        if matches!(ending, Ending::Heard) && input_ended.is_some() && unheard.lines.is_empty() && !leaving {
            leaving = true;
            connection.close(1000, "");
        }
        let wake = match (&ending, input_ended) {
            _ if leaving => None,
            (Ending::After(wait), Some(ended)) => Some(ended + *wait),
            (Ending::Heard, ended) if ended.is_some() || !unheard.has_room() => Some(unheard.progress + ECHO_WAIT),
            _ => None,
        };
        let may_read = input_ended.is_none() && !leaving && connection.has_room() && unheard.has_room();
        tokio::select! {
            event = connection.next() => match event {
                Ok(Event::Heard(message)) => {
                    unheard.heard(&message);
                    if show_ping_pong {
                        tell_control(&message);
                    }
                    if output.print(&message)?.is_break() {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Ok(Event::Flushed) => unheard.progress = Instant::now(),
                Err(end) => break end,
            },
            line = lines.recv(), if may_read => match line {
                Some(Ok(line)) => {
                    said += 1;
                    unheard.said(&line);
                    connection.say(line);
                }
                Some(Err(error)) => {
                    outcome = failure(&format!("cannot read standard input: {error}"));
                    input_ended = Some(Instant::now());
                }
                None => input_ended = Some(Instant::now()),
            },
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => match ending {
                Ending::Heard => unheard.give_up(),
                Ending::After(_) | Ending::Never => {
                    leaving = true;
                    connection.close(1000, "");
                }
            },
            () = output.unread() => return Ok(ExitCode::SUCCESS),
            () = stop.requested() => {
                if leaving {
                    return Ok(ExitCode::FAILURE);
                }
                leaving = true;
                connection.close(1000, "");
            }
        }
    };
    match end {
        End::Closed(_) if leaving && unheard.lines.is_empty() => Ok(outcome),
        end => Ok(failure(&format!("{end}; of {said} messages said, not all may have arrived{unheard}"))),
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.watching { write!(f, ": {} were not heard back", self.lines.len()) } else { Ok(()) }
    }
}

/// Lines that should still come back, oldest first. A service keeps one order, so the oldest is always the next.
struct Unheard {
    lines: VecDeque<Message>,
    bytes: usize,
    /// Not where nothing comes back, or not as it was said: another kind of server, another format.
    watching: bool,
    progress: Instant,
}

impl Unheard {
    fn new(watching: bool) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, watching, progress: Instant::now() }
    }

    fn has_room(&self) -> bool {
        self.lines.len() < WINDOW_LINES && self.bytes < WINDOW_BYTES
    }

    fn said(&mut self, line: &Message) {
        self.progress = Instant::now();
        if self.watching {
            self.bytes += line.len();
            self.lines.push_back(line.clone());
        }
    }

    fn heard(&mut self, message: &Message) {
        if self.lines.pop_front_if(|line| line == message).is_some() {
            self.bytes -= message.len();
            self.progress = Instant::now();
        }
    }

    fn give_up(&mut self) {
        notice(format_args!("{} lines have not come back, waiting no longer", self.lines.len()));
        *self = Self::new(false);
    }
}

fn tell_control(message: &Message) {
    match message {
        Message::Ping(_) => notice("ping"),
        Message::Pong(_) => notice("pong"),
        _ => {}
    }
}

fn failure(problem: &str) -> ExitCode {
    notice(problem);
    ExitCode::FAILURE
}
