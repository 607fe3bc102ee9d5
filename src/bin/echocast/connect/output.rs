//! Standard output, as another program reads it: messages only, one a line, each at once, until
//! that program has read enough. On a terminal, messages are made printable.

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use echocast::telemetry::printable;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use crate::show::print_line;

/// Bytes of a binary message that are shown.
const SHOWN_BYTES: usize = 32;

pub(crate) struct Output {
    reader_gone: Arc<Notify>,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            reader_gone: watch_reader(),
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Breaks if the reader has closed the pipe (`echocast client | head -1`). That is no error:
    /// the reader has enough.
    pub(crate) fn print(&self, message: &Message) -> anyhow::Result<ControlFlow<()>> {
        let Some(text) = shown(message) else {
            return Ok(ControlFlow::Continue(()));
        };
        if self.is_terminal {
            print_line(&printable::line(&text))
        } else {
            print_line(&text)
        }
    }

    /// Returns when the reader is gone. On a quiet channel no message may follow that would fail to
    /// be printed.
    pub(crate) async fn reader_gone(&self) {
        self.reader_gone.notified().await;
    }
}

/// Notifies when the reader is gone.
fn watch_reader() -> Arc<Notify> {
    let reader_gone = Arc::new(Notify::new());
    let gone = Arc::clone(&reader_gone);
    // A thread of its own, which is never joined, because nothing may delay the exit.
    thread::spawn(move || {
        // If waiting fails, the next message still finds out.
        if wait_for_reader_gone().is_ok() {
            gone.notify_one();
        }
    });
    reader_gone
}

/// Asked for no event, `poll` returns only when the other end is gone. On a file it never does.
fn wait_for_reader_gone() -> nix::Result<i32> {
    let stdout = io::stdout();
    let mut output = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut output, PollTimeout::NONE)
}

/// A message as people read it; `None` for a control frame.
pub(crate) fn shown(message: &Message) -> Option<Cow<'_, str>> {
    match message {
        Message::Text(text) => Some(Cow::Borrowed(text.as_str())),
        Message::Binary(bytes) => Some(Cow::Owned(hex(bytes))),
        _ => None,
    }
}

/// The length and the first bytes, as `<2 bytes: 00ff>`.
fn hex(bytes: &[u8]) -> String {
    let length = bytes.len();
    let plural = if length == 1 { "" } else { "s" };
    let more = if length > SHOWN_BYTES { "…" } else { "" };
    let digits = digits(&bytes[..length.min(SHOWN_BYTES)]);
    format!("<{length} byte{plural}: {digits}{more}>")
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
