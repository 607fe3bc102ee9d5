//! Finding the place where a reader starts: at the end, some messages back, or after a message.

use std::sync::{Arc, MutexGuard};
use std::task::Waker;

use super::window::{ReaderState, StartPosition, Window};
use super::{Cursor, Feed, Retention};
use crate::message::MessageId;

/// Where a new reader wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the next message.
    Newest,
    /// With the newest N messages that are kept.
    Last(usize),
    /// With the message after this one.
    After(MessageId),
}

/// A reader that was added where it wanted to start.
#[derive(Debug)]
pub(crate) struct Found {
    /// The reader.
    pub cursor: Cursor,
    /// No message is missing between its start and the end of the window.
    pub whole: bool,
}

/// Why a reader cannot start in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotInWindow {
    /// Its start lies before the window.
    Before(BeforeWindow),
    /// Its start has not arrived yet.
    Ahead,
    /// Its message belongs to another history.
    OtherHistory,
}

/// A start before the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BeforeWindow {
    /// The epoch of the window.
    pub epoch: u64,
    /// The offset to start with.
    pub offset: u64,
    /// The offset of the first message in the window that comes after it.
    pub kept_from: u64,
    /// No message is missing within the window.
    pub whole: bool,
    /// The broker's history is known to have nothing before the window.
    pub gone: bool,
}

/// A start in the window.
struct InWindow {
    position: StartPosition,
    whole: bool,
}

impl Feed {
    /// Adds a reader at the end: it receives everything that is appended from now on.
    pub(crate) fn follow(self: &Arc<Self>) -> Cursor {
        let window = self.lock();
        let end = StartPosition::at_batch(window.end());
        self.read_from(window, end)
    }

    /// Adds a reader where it wants to start.
    ///
    /// # Errors
    /// If that is not in the window.
    pub(crate) fn find(self: &Arc<Self>, start: Start) -> Result<Found, NotInWindow> {
        let window = self.lock();
        let InWindow { position, whole } = window.locate(start, &self.retention)?;
        let cursor = self.read_from(window, position);
        Ok(Found { cursor, whole })
    }

    fn read_from(
        self: &Arc<Self>,
        mut window: MutexGuard<'_, Window>,
        start: StartPosition,
    ) -> Cursor {
        let reader = window.add_reader(Waker::noop().clone(), ReaderState::Behind, start.batch);
        Cursor::new(self.clone(), reader, &window, start)
    }
}

impl Window {
    fn locate(&self, start: Start, retention: &Retention) -> Result<InWindow, NotInWindow> {
        match start {
            Start::Newest => Ok(self.locate_end()),
            // Nothing is replayed when the newest message is too old.
            Start::Last(_) if self.is_expired(retention.ttl) => Ok(self.locate_end()),
            Start::Last(count) => self.locate_last(count.min(retention.messages)),
            Start::After(id) => self.locate_after(id),
        }
    }

    fn locate_end(&self) -> InWindow {
        InWindow {
            position: StartPosition::at_batch(self.end()),
            whole: true,
        }
    }

    fn locate_last(&self, count: usize) -> Result<InWindow, NotInWindow> {
        // The broker's history may have messages that the window lacks.
        let may_have_more = self.epoch != 0 && !self.is_exhausted();
        if count > self.messages && may_have_more {
            let offset = self.next_offset.saturating_sub(count as u64).max(1);
            if self.kept_from(offset) > offset {
                return Err(NotInWindow::Before(BeforeWindow {
                    // A reader that names no message does not ask whether any is missing.
                    whole: true,
                    ..self.before_window(offset)
                }));
            }
        }
        Ok(InWindow {
            position: self.newest(count),
            whole: true,
        })
    }

    fn locate_after(&self, id: MessageId) -> Result<InWindow, NotInWindow> {
        // Messages without history have no ids to resume from.
        if self.epoch == 0 && self.next_offset > 1 {
            return Err(NotInWindow::OtherHistory);
        }
        let (epoch, offset) = self.offset_after(id);
        if epoch == self.epoch && offset == self.next_offset {
            return Ok(self.locate_end());
        }
        if let Some(position) = self.after(epoch, offset) {
            let whole = !self.has_gap_from(position.batch);
            return Ok(InWindow { position, whole });
        }
        Err(if epoch != self.epoch {
            NotInWindow::OtherHistory
        } else if offset > self.next_offset {
            NotInWindow::Ahead
        } else {
            NotInWindow::Before(self.before_window(offset))
        })
    }

    /// Epoch and offset of the message that comes after `id`.
    fn offset_after(&self, id: MessageId) -> (u64, u64) {
        // A client that saw the channel before its first message resumes with that message, in
        // whichever history it is.
        if id.epoch == 0 {
            (self.epoch, 1)
        } else {
            (id.epoch, id.offset.saturating_add(1))
        }
    }

    fn before_window(&self, offset: u64) -> BeforeWindow {
        BeforeWindow {
            epoch: self.epoch,
            offset,
            kept_from: self.kept_from(offset),
            whole: !self.has_gap_from(self.first),
            gone: self.is_exhausted(),
        }
    }
}
