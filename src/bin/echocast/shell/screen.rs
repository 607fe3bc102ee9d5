//! The shell's output at a terminal. A thread of its own prints above the line being typed, as fast
//! as the terminal allows. All text is made printable. At the end it restores the terminal.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{env, thread};

use anyhow::Context;
use echocast::telemetry::printable;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::ExternalPrinter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages that wait for the terminal. At the bound no more are read from the connection.
const WAITING: usize = 256;
/// The line being typed is drawn again after each print, so many messages are printed together, in
/// pieces of about this many bytes.
const PIECE: usize = 16 * 1024;
/// How long leaving waits for the terminal to show the last messages.
const LAST_PRINT: Duration = Duration::from_secs(1);
/// Removes a prompt that is left on the terminal, and turns bracketed paste off.
const CLEAN_UP: &str = "\r\x1b[K\x1b[?2004l";

/// The editor's way to print above its prompt. `None` if the terminal cannot edit lines
/// (`TERM=dumb`); there, text is printed at the cursor.
pub(crate) type AbovePrompt = Option<Box<dyn ExternalPrinter + Send>>;

pub(crate) struct Screen {
    /// `None` once the last entry is queued.
    queue: Option<mpsc::Sender<Entry>>,
    room: Arc<Semaphore>,
    /// Disconnects when the last entry is printed.
    printed: mpsc::Receiver<()>,
    colours: bool,
    editing: bool,
    /// The terminal's settings before the editor changed them. It may be in the middle of a line
    /// when the shell has to leave.
    before: Termios,
}

struct Entry {
    text: String,
    /// Given back once printed. `None` for answers and notices, of which there are not more than
    /// the user types.
    room: Option<OwnedSemaphorePermit>,
}

impl Screen {
    /// Call it before the editor starts.
    pub(crate) fn new(above_prompt: AbovePrompt) -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let editing = above_prompt.is_some();
        let (queue, entries) = mpsc::channel();
        Ok(Self {
            queue: Some(queue),
            room: Arc::new(Semaphore::new(WAITING)),
            printed: start_printer(entries, above_prompt)?,
            // A terminal that cannot edit lines shows no colours either.
            colours: editing && !is_set("NO_COLOR"),
            editing,
            before,
        })
    }

    /// Returns when one more message can be shown. Cancellation-safe.
    pub(crate) async fn room(&self) {
        // Fails only on a closed semaphore, and nobody closes this one.
        self.room.acquire().await.ok();
    }

    /// Shows a message if there is `room`.
    pub(crate) fn message(&self, text: &str) {
        // Without room the message is dropped, which only happens while closing.
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return;
        };
        self.put(format!("< {}", printable::line(text)), Some(room));
    }

    /// Shows a text about the connection.
    pub(crate) fn notice(&self, text: impl AsRef<str>) {
        let text = printable::line(text.as_ref());
        self.put(self.dimmed(&text), None);
    }

    fn dimmed(&self, text: &str) -> String {
        if self.colours {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Shows the answer to a typed line, which it may quote.
    pub(crate) fn answer(&self, text: impl AsRef<str>) {
        self.put(printable::line(text.as_ref()).into_owned(), None);
    }

    /// If the terminal is gone there is nothing to restore.
    fn restore(&self) {
        if self.editing {
            write(CLEAN_UP).ok();
        }
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before).ok();
    }

    fn put(&self, mut text: String, room: Option<OwnedSemaphorePermit>) {
        text.push('\n');
        if let Some(queue) = &self.queue {
            // Fails only if the printer has panicked, and the panic is on the terminal already.
            queue.send(Entry { text, room }).ok();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.queue = None;
        // Disconnected: everything is printed. Timed out: the terminal is stuck, and must not keep
        // the shell from leaving.
        self.printed.recv_timeout(LAST_PRINT).ok();
        self.restore();
    }
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Returns a channel that disconnects when everything is printed.
///
/// The editor's printer blocks between a typed line and the next prompt. If the thread that handles
/// lines printed, too, both would wait for each other for ever.
fn start_printer(
    entries: mpsc::Receiver<Entry>,
    above_prompt: AbovePrompt,
) -> anyhow::Result<mpsc::Receiver<()>> {
    let (done, printed) = mpsc::channel();
    let print = move || {
        print_all(&entries, above_prompt);
        drop(done);
    };
    thread::Builder::new()
        .name("screen".to_owned())
        .spawn(print)
        .context("cannot start the screen's thread")?;
    Ok(printed)
}

fn print_all(entries: &mpsc::Receiver<Entry>, mut above_prompt: AbovePrompt) {
    while let Ok(first) = entries.recv() {
        // The room is given back only after printing, when these are dropped.
        let (text, _rooms) = piece(first, entries);
        if !print_above(&mut above_prompt, &text) {
            // The editor is gone, or there never was one. If the terminal cannot be written to,
            // nobody can be notified.
            write(&text).ok();
        }
    }
}

/// Whether it could be printed.
fn print_above(above_prompt: &mut AbovePrompt, text: &str) -> bool {
    let Some(printer) = above_prompt else {
        return false;
    };
    printer.print(text.to_owned()).is_ok()
}

/// Puts entries that wait together, up to the size of a piece.
fn piece(
    first: Entry,
    entries: &mpsc::Receiver<Entry>,
) -> (String, Vec<Option<OwnedSemaphorePermit>>) {
    let mut text = first.text;
    let mut rooms = vec![first.room];
    // Only what waits already: a single message must appear at once.
    while text.len() < PIECE
        && let Ok(next) = entries.try_recv()
    {
        text.push_str(&next.text);
        rooms.push(next.room);
    }
    (text, rooms)
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}
