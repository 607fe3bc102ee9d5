//! What one write carries: shared batches with this client's own control frames between two messages. It owns the order
//! of bytes on a socket; what to write is the session's to decide.

use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::feed::{Cursor, Progress, TAKE_BATCHES, Taken};
use crate::message::Batch;
use crate::ws::frame;

/// Control frames that wait for the end of the current message frame. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Control {
    bytes: Vec<u8>,
    sent: usize,
}

impl Control {
    pub(super) fn push(&mut self, frame: frame::Control<'_>) {
        frame::encode_control(frame, &mut self.bytes);
    }

    /// Bytes not yet written.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Bytes held, those included that are written while others are not.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// The bytes of one `writev`, in order: the rest of a frame that was begun, control frames, more messages.
pub(super) struct Outgoing<'a> {
    batches: &'a [Arc<Batch>],
    /// Where in the first batch the bytes begin.
    from: usize,
    /// Bytes of messages before the control frames, and after them.
    before: usize,
    after: usize,
    control: &'a [u8],
}

pub(super) type Slices<'a> = SmallVec<[IoSlice<'a>; TAKE_BATCHES + 3]>;

impl<'a> Outgoing<'a> {
    /// Everything in `taken`.
    pub(super) fn all(taken: &'a Taken, cursor: &Cursor, control: &'a Control) -> Self {
        // Nothing taken may well be in the middle of a batch, at the end of one of its frames.
        let from = if taken.is_empty() { 0 } else { cursor.sent() };
        let total = taken.iter().map(|batch| batch.raw().len()).sum::<usize>() - from;
        // A control frame that was begun is ended first; else a message frame that was begun is.
        let before = match taken.first() {
            Some(batch) if control.waiting() > 0 && control.sent == 0 => batch.frame_boundary(from) - from,
            _ => 0,
        };
        Self { batches: taken, from, before, after: total - before, control: &control.bytes[control.sent..] }
    }

    /// Only what ends the frame that was begun, up to byte `end` of the first batch, and control frames.
    pub(super) fn last(taken: &'a Taken, end: usize, cursor: &Cursor, control: &'a Control) -> Self {
        let from = cursor.sent();
        let before = if taken.is_empty() { 0 } else { end - from };
        Self { batches: taken, from, before, after: 0, control: &control.bytes[control.sent..] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.before + self.after + self.control.len() == 0
    }

    pub(super) fn slices(&self) -> Slices<'a> {
        let mut slices = Slices::new();
        let mut rest = self.before + self.after;
        let mut from = self.from;
        if self.before > 0 {
            slices.push(IoSlice::new(&self.batches[0].raw()[from..from + self.before]));
            from += self.before;
            rest -= self.before;
        }
        if !self.control.is_empty() {
            slices.push(IoSlice::new(self.control));
        }
        for batch in self.batches {
            let bytes = &batch.raw()[from..];
            if rest > 0 && !bytes.is_empty() {
                slices.push(IoSlice::new(bytes));
                rest -= bytes.len();
            }
            from = 0;
        }
        slices
    }

    /// How `written` bytes divide into those of messages and those of control frames.
    pub(super) fn divide(&self, written: usize) -> (usize, usize) {
        let control = written.saturating_sub(self.before).min(self.control.len());
        (written - control, control)
    }
}

/// Moves both on by what was written.
pub(super) fn advance(cursor: &mut Cursor, taken: &Taken, control: &mut Control, divided: (usize, usize)) -> Progress {
    control.advance(divided.1);
    cursor.advance(taken, divided.0)
}
