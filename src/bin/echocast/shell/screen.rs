//! What appears on the terminal: printed above the line being typed, by a thread of its own, and no
//! faster than the terminal takes it. What it shows is harmless to the terminal. Restores the
//! terminal at the end.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{env, thread};

use anyhow::Context;
use echocast::telemetry::printable;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::ExternalPrinter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages waiting for the terminal; at the bound, no more are read from the connection.
const WAITING: usize = 256;
/// The line being typed is drawn anew after each print, so a flood is printed in pieces of about
/// this size.
const PIECE: usize = 16 * 1024;
/// How long leaving waits for the terminal to take what was heard.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The editor's way to print above its prompt. `None` on terminals that cannot edit lines
/// (`TERM=dumb`): there, output goes where it falls.
pub(crate) type AbovePrompt = Option<Box<dyn ExternalPrinter + Send>>;

pub(crate) struct Screen {
    queue: Option<mpsc::Sender<Entry>>,
    room: Arc<Semaphore>,
    /// Disconnects when the last entry is printed.
    printed: mpsc::Receiver<()>,
    colours: bool,
    editing: bool,
    /// The terminal before the editor changed it: it may be in the middle of a line when the shell
    /// must leave.
    before: Termios,
}

struct Entry {
    text: String,
    /// Given back once printed. Answers and notices need none: they come no faster than the user
    /// types.
    room: Option<OwnedSemaphorePermit>,
}

impl Screen {
    /// Call it before the editor starts.
    pub(crate) fn new(above_prompt: AbovePrompt) -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let editing = above_prompt.is_some();
        let colours = editing && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (queue, entries) = mpsc::channel();
        let (done, printed) = mpsc::channel();
        // The editor's printer blocks while a line has been typed and not yet dealt with: if that
        // were waited for where lines are dealt with, both would wait for ever.
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                print_all(&entries, above_prompt);
                drop(done);
            })
            .context("cannot start the screen's thread")?;
        Ok(Self {
            queue: Some(queue),
            room: Arc::new(Semaphore::new(WAITING)),
            printed,
            colours,
            editing,
            before,
        })
    }

    /// Returns when one more message can be shown. Safe to drop.
    pub(crate) async fn room(&self) {
        // The semaphore is never closed, so this only waits.
        self.room.acquire().await.ok();
    }

    /// Shows a message, if there is `room`.
    pub(crate) fn message(&self, text: &str) {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return;
        };
        self.put(format!("< {}", printable::line(text)), Some(room));
    }

    /// About the connection, not from it.
    pub(crate) fn notice(&self, text: impl AsRef<str>) {
        let text = printable::line(text.as_ref());
        self.put(
            if self.colours {
                format!("\x1b[2m{text}\x1b[0m")
            } else {
                text.into_owned()
            },
            None,
        );
    }

    /// A line of ours, which may quote what was typed.
    pub(crate) fn answer(&self, text: impl AsRef<str>) {
        self.put(printable::line(text.as_ref()).into_owned(), None);
    }

    fn put(&self, mut text: String, room: Option<OwnedSemaphorePermit>) {
        text.push('\n');
        if let Some(queue) = &self.queue {
            // Fails only if the screen's thread has died, whose panic is on the terminal already.
            queue.send(Entry { text, room }).ok();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.queue = None;
        // Disconnected: all is printed. Timed out: the terminal is stuck, and leaving must not be.
        self.printed.recv_timeout(LAST_WORDS).ok();
        // A prompt may be left standing, and bracketed paste on. If the terminal is gone there is
        // nothing to restore.
        let mut output = io::stdout();
        if self.editing {
            output
                .write_all(b"\r\x1b[K\x1b[?2004l")
                .and_then(|()| output.flush())
                .ok();
        }
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before).ok();
    }
}

fn print_all(entries: &mpsc::Receiver<Entry>, mut above_prompt: AbovePrompt) {
    while let Ok(mut entry) = entries.recv() {
        let mut rooms = vec![entry.room.take()];
        while entry.text.len() < PIECE
            && let Ok(next) = entries.try_recv()
        {
            entry.text.push_str(&next.text);
            rooms.push(next.room);
        }
        let above = above_prompt
            .as_mut()
            .is_some_and(|printer| printer.print(entry.text.clone()).is_ok());
        if !above {
            // The editor is gone or never was. A terminal that cannot be written to has nobody to
            // be told.
            let mut output = io::stdout();
            output
                .write_all(entry.text.as_bytes())
                .and_then(|()| output.flush())
                .ok();
        }
    }
}
