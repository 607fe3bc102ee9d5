//! Standard output as another program reads it: messages only, one a line, each at once, until that
//! program has enough. People who read it on a terminal are shown what a message would do to that.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use echocast::telemetry::printable;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

/// Of a binary message, this many bytes are shown.
const SHOWN_BYTES: usize = 32;

pub(crate) struct Output {
    reader_gone: Arc<Notify>,
    /// Whether people read it.
    terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let reader_gone = Arc::new(Notify::new());
        let gone = Arc::clone(&reader_gone);
        // Asked for no event, poll returns only when the other end is gone; on a file, never. A
        // thread of its own, because nothing may hold up the exit. If poll fails we still find out
        // by the next message.
        thread::spawn(move || {
            let stdout = io::stdout();
            let mut output = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            if poll(&mut output, PollTimeout::NONE).is_ok() {
                gone.notify_one();
            }
        });
        Self {
            reader_gone,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Breaks when nobody reads any more (`echocast client | head -1`): no error, the reader has
    /// enough.
    pub(crate) fn print(&self, message: &Message) -> anyhow::Result<ControlFlow<()>> {
        let Some(text) = shown(message) else {
            return Ok(ControlFlow::Continue(()));
        };
        let mut output = io::stdout().lock();
        let line = if self.terminal {
            printable::line(&text)
        } else {
            text
        };
        match writeln!(output, "{line}").and_then(|()| output.flush()) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(error).context("cannot write to standard output"),
        }
    }

    /// Returns when the reader is gone: on a quiet channel there may be no next message to find out
    /// by.
    pub(crate) async fn unread(&self) {
        self.reader_gone.notified().await;
    }
}

/// A message as people read it; `None` for a control frame.
pub(crate) fn shown(message: &Message) -> Option<Cow<'_, str>> {
    match message {
        Message::Text(text) => Some(Cow::Borrowed(text.as_str())),
        Message::Binary(bytes) => {
            let hex: String = bytes
                .iter()
                .take(SHOWN_BYTES)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
            let plural = if bytes.len() == 1 { "" } else { "s" };
            Some(Cow::Owned(format!(
                "<{} byte{plural}: {hex}{more}>",
                bytes.len()
            )))
        }
        _ => None,
    }
}
