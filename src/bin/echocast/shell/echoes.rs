//! Lines from a pipe whose echo is still awaited. How long to wait is decided by `pipe`.

use std::collections::VecDeque;
use std::fmt;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::show::notice;

/// Lines and bytes that may be awaited. At the bound the input is not read, which also keeps a fast
/// pipe from overrunning its own reader.
const WINDOW_LINES: usize = 1024;
const WINDOW_BYTES: usize = 16 << 20;

pub(super) struct Echoes {
    /// Oldest first. A channel has one order, so the oldest is always the next to come back.
    lines: VecDeque<Message>,
    bytes: usize,
    /// False if lines do not come back as they were sent: another kind of server, or another
    /// format.
    awaited: bool,
    /// When something last happened from which more may follow.
    progress_at: Instant,
}

impl Echoes {
    pub(super) fn new(awaited: bool) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            awaited,
            progress_at: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < WINDOW_LINES && self.bytes < WINDOW_BYTES
    }

    pub(super) fn progress_at(&self) -> Instant {
        self.progress_at
    }

    /// Waiting starts again.
    pub(super) fn progress(&mut self) {
        self.progress_at = Instant::now();
    }

    pub(super) fn sent(&mut self, line: &Message) {
        self.progress();
        if self.awaited {
            self.bytes += line.len();
            self.lines.push_back(line.clone());
        }
    }

    pub(super) fn received(&mut self, message: &Message) {
        if self.lines.pop_front_if(|line| line == message).is_some() {
            self.bytes -= message.len();
            self.progress();
        }
    }

    /// This line will not come back.
    pub(super) fn forget(&mut self, message: &Message) {
        if let Some(index) = self.lines.iter().position(|line| line == message) {
            self.lines.remove(index);
            self.bytes -= message.len();
        }
    }

    pub(super) fn give_up(&mut self) {
        let missing = self.lines.len();
        notice(format_args!(
            "{missing} lines have not come back, no longer waiting for them"
        ));
        *self = Self::new(false);
    }
}

impl fmt::Display for Echoes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.awaited {
            write!(f, ": {} have not come back", self.lines.len())
        } else {
            Ok(())
        }
    }
}
