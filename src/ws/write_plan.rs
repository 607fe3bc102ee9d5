//! The bytes of one write: shared batches of the channel, and between two of their items the frames
//! for this client alone. This module owns the order of bytes on a socket. The session decides what
//! to write.

use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use super::write_buffer::WriteBuffer;
use crate::feed::{Cursor, TAKE_BATCHES};
use crate::message::{Batch, Format};

/// The most parts of one write: as many batches as a cursor takes, one of them in two parts, and
/// one more. The kernel's limit is far above.
const MAX_PARTS: usize = TAKE_BATCHES + 2;

/// A write encodes no further batch after so many bytes, because other sessions wait for it.
const ENCODE_BYTES: usize = 256 * 1024;

/// Parts that need no allocation. Most writes have fewer. Moving room for [`MAX_PARTS`] would cost
/// more than most writes.
const FEW: usize = 8;

/// How a client receives messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipient {
    pub(super) format: Format,
    /// The mark of its own messages if it does not receive them, else 0.
    pub(super) sender: u32,
}

/// The bytes of one `writev`.
pub(super) struct WritePlan<'a> {
    batches: &'a [Arc<Batch>],
    recipient: Recipient,
    parts: SmallVec<[Part; FEW]>,
    /// How many parts come before the client's own frames.
    parts_before_own: usize,
    /// The waiting bytes of its write buffer.
    own: &'a [u8],
    /// Where the cursor is once all of this is written.
    end: Place,
    /// Bytes that had to be encoded for it.
    pub(super) encoded: usize,
}

/// Bytes of one batch in the recipient's format.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Index among the plan's batches.
    batch: usize,
    from: usize,
    to: usize,
}

/// A byte of a batch among those taken.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    batch: usize,
    at: usize,
}

/// How far a write has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Bytes of the client's own frames.
    own: usize,
    /// Messages that were written to their end.
    pub(super) messages: u64,
    reached: Place,
}

impl<'a> WritePlan<'a> {
    /// Everything in `batches`, as far as it fits one write.
    #[inline(always)] // once a write, like all of these: calls were a twentieth of a delivery
    pub(super) fn all(
        batches: &'a [Arc<Batch>],
        cursor: &Cursor,
        buffer: &'a WriteBuffer,
        recipient: Recipient,
    ) -> Self {
        let end = Place::before(batches.len());
        let mut this = Self::new(batches, buffer, recipient, end);
        for (index, batch) in batches.iter().enumerate() {
            // Raw frames are made with the batch. Other formats are made by their first reader.
            if recipient.format != Format::RAW && !batch.is_encoded(recipient.format) {
                if this.shows_nothing(index, batch, cursor) {
                    continue;
                }
                if this.encoded >= ENCODE_BYTES {
                    this.end = Place::before(index);
                    break;
                }
                this.encoded += batch.raw().len().max(batch.bytes(recipient.format).len());
            }
            if index == 0 {
                this.add_first(batch, cursor, buffer);
            } else {
                this.add(index, batch, 0);
            }
        }
        if this.parts.len() == MAX_PARTS {
            // More parts may have been left out.
            this.end = this.place_after(this.parts[MAX_PARTS - 1]);
        }
        this
    }

    /// Only the rest of the item that was begun, up to byte `end` of the first batch, and the
    /// client's own frames.
    pub(super) fn rest_of_item(
        batches: &'a [Arc<Batch>],
        end: usize,
        cursor: &Cursor,
        buffer: &'a WriteBuffer,
        recipient: Recipient,
    ) -> Self {
        let mut this = Self::new(batches, buffer, recipient, Place::default());
        this.parts_before_own = 1;
        if let Some(batch) = batches.first() {
            this.push(0, cursor.sent(batch, recipient.format), end);
            this.end = this.place_after(Part {
                batch: 0,
                from: 0,
                to: end,
            });
        }
        this
    }

    #[inline(always)]
    fn new(
        batches: &'a [Arc<Batch>],
        buffer: &'a WriteBuffer,
        recipient: Recipient,
        end: Place,
    ) -> Self {
        Self {
            batches,
            recipient,
            parts: SmallVec::new(),
            parts_before_own: 0,
            own: buffer.rest(),
            end,
            encoded: 0,
        }
    }

    /// Whether this client receives nothing of a batch that nobody has encoded in its format:
    /// encoding it would be in vain.
    fn shows_nothing(&self, index: usize, batch: &Batch, cursor: &Cursor) -> bool {
        let is_whole = index > 0 || cursor.is_between_batches();
        let sender = self.recipient.sender;
        is_whole && sender != 0 && batch.is_all_from(sender)
    }

    /// Adds the first batch, of which the cursor may have written some. An item that was begun is
    /// ended before the client's own frames, unless one of these was begun, too.
    #[inline(always)]
    fn add_first(&mut self, batch: &Batch, cursor: &Cursor, buffer: &WriteBuffer) {
        let format = self.recipient.format;
        let mut from = cursor.sent(batch, format);
        if buffer.waiting() > 0 && !buffer.is_begun() {
            let items = batch.items_before(format, from);
            if batch.end_of(format, items) < from {
                let item_end = batch.end_of(format, items + 1);
                self.push(0, from, item_end);
                self.parts_before_own = 1;
                from = item_end;
            }
        }
        self.add(0, batch, from);
    }

    /// Adds what this client receives of a batch from an item's beginning, or from inside one that
    /// it receives.
    #[inline(always)]
    fn add(&mut self, index: usize, batch: &Batch, mut from: usize) {
        let Recipient { format, sender } = self.recipient;
        let to = batch.bytes(format).len();
        if sender == 0 || !batch.has_any_from(sender) {
            return self.push(index, from, to);
        }
        // Cut its own messages out.
        for item in batch.items_before(format, from)..batch.items(format) {
            if batch.is_from(item, sender) {
                self.push(index, from, batch.end_of(format, item).max(from));
                from = batch.end_of(format, item + 1);
            }
        }
        self.push(index, from, to);
    }

    #[inline(always)]
    fn push(&mut self, batch: usize, from: usize, to: usize) {
        if from < to && self.parts.len() < MAX_PARTS {
            self.parts.push(Part { batch, from, to });
        }
    }

    fn place_after(&self, part: Part) -> Place {
        if part.to == self.bytes(part.batch).len() {
            return Place::before(part.batch + 1);
        }
        Place {
            batch: part.batch,
            at: part.to,
        }
    }

    /// All bytes of a batch.
    #[inline(always)]
    fn bytes(&self, batch: usize) -> &'a [u8] {
        self.batches[batch].bytes(self.recipient.format)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.own.is_empty()
    }

    #[inline(always)]
    pub(super) fn slices(&self) -> SmallVec<[IoSlice<'a>; FEW + 1]> {
        let mut slices = SmallVec::new();
        for (index, part) in self.parts.iter().enumerate() {
            if index == self.parts_before_own && !self.own.is_empty() {
                slices.push(IoSlice::new(self.own));
            }
            let bytes = self.bytes(part.batch);
            slices.push(IoSlice::new(&bytes[part.from..part.to]));
        }
        if self.parts_before_own >= self.parts.len() && !self.own.is_empty() {
            slices.push(IoSlice::new(self.own));
        }
        slices
    }

    /// How far the first `bytes` bytes of it come.
    #[inline(always)]
    pub(super) fn written(&self, bytes: usize) -> Written {
        // 1. The client's own frames lie behind the first parts.
        let own = bytes
            .saturating_sub(self.bytes_before_own())
            .min(self.own.len());
        // 2. All other bytes are of the parts, in order.
        let mut left = bytes - own;
        let mut messages = 0;
        for part in &self.parts {
            let size = part.size();
            let end = part.from + left.min(size);
            messages += self.messages(part.batch, part.from, end);
            if left < size {
                let reached = Place {
                    batch: part.batch,
                    at: end,
                };
                return Written {
                    own,
                    messages,
                    reached,
                };
            }
            left -= size;
        }
        Written {
            own,
            messages,
            reached: self.end,
        }
    }

    /// Bytes of the parts before the client's own frames.
    #[inline(always)]
    fn bytes_before_own(&self) -> usize {
        let before = self.parts.iter().take(self.parts_before_own);
        before.map(Part::size).sum()
    }

    /// How many messages end between two bytes of a batch.
    #[inline(always)]
    fn messages(&self, batch: usize, from: usize, to: usize) -> u64 {
        let (batch, format) = (&self.batches[batch], self.recipient.format);
        // The mark of a gap is an item, but no message.
        if batch.is_empty() {
            return 0;
        }
        if from == 0 && to == batch.bytes(format).len() {
            return batch.len() as u64;
        }
        (batch.items_before(format, to) - batch.items_before(format, from)) as u64
    }
}

impl Place {
    /// The beginning of a batch.
    fn before(batch: usize) -> Self {
        Self { batch, at: 0 }
    }
}

impl Part {
    #[inline(always)]
    fn size(&self) -> usize {
        self.to - self.from
    }
}

impl Written {
    /// How many batches are written to their end.
    pub(super) fn batches(&self) -> usize {
        self.reached.batch
    }

    /// Moves the cursor and the write buffer on.
    #[inline(always)]
    pub(super) fn apply(
        self,
        cursor: &mut Cursor,
        batches: &[Arc<Batch>],
        buffer: &mut WriteBuffer,
        recipient: Recipient,
    ) {
        buffer.advance(self.own);
        let Place { batch, at } = self.reached;
        cursor.advance(batches, recipient.format, batch, at);
    }
}

#[cfg(test)]
mod tests;
