//! The lines of a pipe that should still come back. How long they are waited for is `pipe`'s.

use std::collections::VecDeque;
use std::fmt;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::show::notice;

/// Lines and bytes said and not heard back; at the bound the input is not read. Also what keeps a
/// fast pipe from outrunning its own reader.
const WINDOW_LINES: usize = 1024;
const WINDOW_BYTES: usize = 16 << 20;

/// Lines that should still come back, oldest first. A service keeps one order, so the oldest is
/// always the next.
pub(super) struct Unheard {
    lines: VecDeque<Message>,
    bytes: usize,
    /// Not where nothing comes back, or not as it was said: another kind of server, another format.
    watching: bool,
    /// When something last happened that gives hope.
    pub(super) progress: Instant,
}

impl Unheard {
    pub(super) fn new(watching: bool) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            watching,
            progress: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < WINDOW_LINES && self.bytes < WINDOW_BYTES
    }

    pub(super) fn said(&mut self, line: &Message) {
        self.progress = Instant::now();
        if self.watching {
            self.bytes += line.len();
            self.lines.push_back(line.clone());
        }
    }

    pub(super) fn heard(&mut self, message: &Message) {
        if self.lines.pop_front_if(|line| line == message).is_some() {
            self.bytes -= message.len();
            self.progress = Instant::now();
        }
    }

    /// It will not come back.
    pub(super) fn forget(&mut self, message: &Message) {
        if let Some(at) = self.lines.iter().position(|line| line == message) {
            self.lines.remove(at);
            self.bytes -= message.len();
        }
    }

    pub(super) fn give_up(&mut self) {
        notice(format_args!(
            "{} lines have not come back, waiting no longer",
            self.lines.len()
        ));
        *self = Self::new(false);
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.watching {
            write!(f, ": {} were not heard back", self.lines.len())
        } else {
            Ok(())
        }
    }
}
