//! What one write carries: shared batches with this client's own frames between two items. It owns
//! the order of bytes on a socket; what to write is the session's to decide.

use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::feed::{Cursor, TAKE_BATCHES};
use crate::frame::{self, ControlFrame};
use crate::message::{Batch, Format, put_text};

/// A ping without a payload.
const PING: [u8; 2] = [0x89, 0];

/// This client's own frames, which wait for the end of the current item. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl WriteBuffer {
    /// Bytes that are framed already.
    pub(super) fn framed(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            sent: 0,
        }
    }

    pub(super) fn push(&mut self, frame: ControlFrame<'_>) {
        frame::encode_control(frame, &mut self.bytes);
    }

    /// Adds bytes that are framed already.
    pub(super) fn push_framed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds bytes before all others that wait. None of these may have been begun.
    pub(super) fn push_first(&mut self, bytes: &[u8]) {
        self.bytes
            .splice(self.sent..self.sent, bytes.iter().copied());
    }

    pub(super) fn push_text(&mut self, text: &[u8]) {
        put_text(text, &mut self.bytes);
    }

    /// Bytes not yet written.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Bytes held, those included that are written while others are not.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a ping of ours is the last that waits. A frame that ends with the same two bytes is
    /// taken for one, too: then the next ping is one interval late.
    pub(super) fn ends_with_ping(&self) -> bool {
        self.rest().ends_with(&PING)
    }

    fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// How a client reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipient {
    pub(super) format: Format,
    /// What its own messages are marked with, if it does not want to hear them; else 0.
    pub(super) sender: u32,
}

/// The bytes of one `writev`: parts of batches in order, and control frames between two of them.
pub(super) struct Output<'a> {
    taken: &'a [Arc<Batch>],
    recipient: Recipient,
    parts: SmallVec<[Part; FEW]>,
    /// How many parts come before the control frames.
    before: usize,
    own: &'a [u8],
    /// The batch, and the byte in it, that comes after all of this.
    then: (usize, usize),
    /// Bytes that had to be encoded for it.
    pub(super) encoded: usize,
}

/// Bytes of one batch.
#[derive(Clone, Copy, Debug)]
struct Part {
    batch: usize,
    from: usize,
    to: usize,
}

/// As many as a `writev` takes beside control frames, and far below what the kernel allows.
const PARTS: usize = TAKE_BATCHES + 2;

/// Bytes encoded for one write, and a batch more: others wait for that.
const ENCODE_BYTES: usize = 256 * 1024;

/// As many as there mostly are: more are on the heap, because moving room for all of them costs
/// more than writing few.
const FEW: usize = 8;

impl<'a> Output<'a> {
    /// Everything in `taken`, as far as it fits.
    #[inline(always)] // once a write, like all of these; pages are written by another caller
    pub(super) fn all(
        taken: &'a [Arc<Batch>],
        cursor: &Cursor,
        buffer: &'a WriteBuffer,
        recipient: Recipient,
    ) -> Self {
        let then = (taken.len(), 0);
        let mut this = Self {
            taken,
            recipient,
            parts: SmallVec::new(),
            before: 0,
            own: buffer.rest(),
            then,
            encoded: 0,
        };
        let format = recipient.format;
        let is_raw = format == Format::RAW;
        for (index, batch) in taken.iter().enumerate() {
            if !is_raw && !batch.is_encoded(format) {
                let is_whole = index > 0 || cursor.is_between_batches();
                if is_whole && recipient.sender != 0 && batch.is_all_from(recipient.sender) {
                    // Encoding it would be for nobody.
                    continue;
                }
                if this.encoded >= ENCODE_BYTES {
                    this.then = (index, 0);
                    break;
                }
                this.encoded += batch.raw().len().max(batch.bytes(format).len());
            }
            let from = if index == 0 {
                cursor.sent(batch, format)
            } else {
                0
            };
            let bytes = batch.bytes(format).len();
            if index == 0 && buffer.waiting() > 0 {
                // A control frame that was begun is ended first; else an item that was begun is.
                let begun = batch.end_of(format, batch.items_before(format, from));
                if begun < from && buffer.sent == 0 {
                    let end = batch.end_of(format, batch.items_before(format, from) + 1);
                    this.push(index, from, end);
                    this.before = 1;
                    this.add(index, batch, end, bytes);
                    continue;
                }
            }
            this.add(index, batch, from, bytes);
        }
        if this.parts.len() == PARTS {
            // There may be more that did not fit.
            this.then = this.after(this.parts[PARTS - 1]);
        }
        this
    }

    /// Only what ends the item that was begun, up to byte `end` of the first batch, and control
    /// frames.
    pub(super) fn last(
        taken: &'a [Arc<Batch>],
        end: usize,
        cursor: &Cursor,
        buffer: &'a WriteBuffer,
        recipient: Recipient,
    ) -> Self {
        let parts = SmallVec::new();
        let mut this = Self {
            taken,
            recipient,
            parts,
            before: 1,
            own: buffer.rest(),
            then: (0, 0),
            encoded: 0,
        };
        if let Some(batch) = taken.first() {
            this.push(0, cursor.sent(batch, recipient.format), end);
            this.then = this.after(Part {
                batch: 0,
                from: 0,
                to: end,
            });
        }
        this
    }

    fn after(&self, part: Part) -> (usize, usize) {
        let whole = part.to == self.taken[part.batch].bytes(self.recipient.format).len();
        if whole {
            (part.batch + 1, 0)
        } else {
            (part.batch, part.to)
        }
    }

    /// Adds what this client hears of a batch from an item's beginning, or from inside one that it
    /// hears.
    #[inline(always)]
    fn add(&mut self, index: usize, batch: &Batch, mut from: usize, to: usize) {
        let Recipient { format, sender } = self.recipient;
        if sender == 0 || !batch.has_any_from(sender) {
            return self.push(index, from, to);
        }
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
        if from < to && self.parts.len() < PARTS {
            self.parts.push(Part { batch, from, to });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.own.is_empty()
    }

    #[inline(always)]
    pub(super) fn slices(&self) -> SmallVec<[IoSlice<'a>; FEW + 1]> {
        let mut slices = SmallVec::new();
        for (index, part) in self.parts.iter().enumerate() {
            if index == self.before && !self.own.is_empty() {
                slices.push(IoSlice::new(self.own));
            }
            slices.push(IoSlice::new(
                &self.taken[part.batch].bytes(self.recipient.format)[part.from..part.to],
            ));
        }
        if self.before >= self.parts.len() && !self.own.is_empty() {
            slices.push(IoSlice::new(self.own));
        }
        slices
    }

    /// What `written` bytes of it come to.
    #[inline(always)] // once a write
    pub(super) fn progress(&self, written: usize) -> Written {
        let before: usize = self
            .parts
            .iter()
            .take(self.before)
            .map(|part| part.to - part.from)
            .sum();
        let own = written.saturating_sub(before).min(self.own.len());
        let mut left = written - own;
        let mut messages = 0;
        for part in &self.parts {
            let size = part.to - part.from;
            let end = part.from + left.min(size);
            messages += self.messages(part.batch, part.from, end);
            if left < size {
                return Written {
                    own,
                    messages,
                    batch: part.batch,
                    at: end,
                };
            }
            left -= size;
        }
        Written {
            own,
            messages,
            batch: self.then.0,
            at: self.then.1,
        }
    }

    #[inline(always)]
    fn messages(&self, batch: usize, from: usize, to: usize) -> u64 {
        let (batch, format) = (&self.taken[batch], self.recipient.format);
        if batch.is_empty() {
            return 0;
        }
        if from == 0 && to == batch.bytes(format).len() {
            return batch.len() as u64;
        }
        (batch.items_before(format, to) - batch.items_before(format, from)) as u64
    }
}

impl WriteBuffer {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

/// Where a write has brought a reader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// Bytes of control frames.
    own: usize,
    /// Messages that ended.
    pub(super) messages: u64,
    /// The batch that comes next, or that it is in, among those taken.
    pub(super) batch: usize,
    at: usize,
}

impl Written {
    /// Moves both on.
    pub(super) fn apply(
        self,
        cursor: &mut Cursor,
        taken: &[Arc<Batch>],
        buffer: &mut WriteBuffer,
        recipient: Recipient,
    ) {
        buffer.advance(self.own);
        cursor.advance(taken, recipient.format, self.batch, self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::{FeedWriter, Retention, Taken};
    use crate::message::{BatchBuilder, Kind, Missed};

    const OWN: u32 = 7;
    const PING: &[u8] = &[0x89, 3, b'1', b'2', b'3'];

    /// Batches and gap marks at random, and a reader before all of them.
    fn feed() -> (Vec<Arc<Batch>>, Cursor) {
        let retention = Retention {
            messages: 10_000,
            bytes: 1 << 24,
            history_bytes: usize::MAX,
            ttl: Duration::from_secs(60),
        };
        let (mut writer, feed) = FeedWriter::for_test(retention);
        let (mut all, cursor) = (feed.follow(), feed.follow());
        for _ in 0..rand::random_range(1..100) {
            let mut batch = BatchBuilder::default();
            for _ in 0..rand::random_range(1..6) {
                let sender = if rand::random_bool(0.3) { OWN } else { 0 };
                batch.push(Kind::Text, &vec![b'x'; rand::random_range(0..200)], sender);
            }
            writer.append(batch.build(0), None);
            if rand::random_bool(0.1) {
                writer.mark_gap(Missed::Exactly(3));
            }
        }
        let (mut batches, mut taken) = (Vec::new(), Taken::new());
        while all.take_now(&mut taken) == Ok(true) {
            all.skip(&taken);
            batches.extend(taken.drain(..));
        }
        (batches, cursor)
    }

    /// The items that a reader gets, and how many of them are messages.
    fn wanted(
        batches: &[Arc<Batch>],
        Recipient { format, sender }: Recipient,
    ) -> (Vec<Vec<u8>>, u64) {
        let (mut items, mut messages) = (Vec::new(), 0);
        for batch in batches {
            for item in 0..batch.items(format) {
                if sender == 0 || !batch.is_from(item, sender) {
                    items.push(
                        batch.bytes(format)
                            [batch.end_of(format, item)..batch.end_of(format, item + 1)]
                            .to_vec(),
                    );
                    messages += u64::from(!batch.is_empty());
                }
            }
        }
        (items, messages)
    }

    #[test]
    fn however_a_socket_takes_them_items_stay_whole_and_control_frames_between_them() {
        for round in 0..600 {
            let format = [Format::RAW, Format::V1, Format::EVENTS][round % 3];
            let recipient = Recipient {
                format,
                sender: if round % 2 == 0 { OWN } else { 0 },
            };
            let (batches, mut cursor) = feed();
            let (mut control, mut pings, mut written, mut messages) =
                (WriteBuffer::default(), 0, Vec::new(), 0);
            loop {
                if rand::random_bool(0.3) && pings < 50 {
                    control.push(ControlFrame::Ping(&PING[2..]));
                    pings += 1;
                }
                let mut taken = Taken::new();
                cursor.take_now(&mut taken).expect("nothing is missing");
                let output = Output::all(&taken, &cursor, &control, recipient);
                if output.is_empty() && taken.is_empty() {
                    break;
                }
                let progress = if output.is_empty() {
                    output.progress(0)
                } else {
                    let bytes: Vec<u8> = output
                        .slices()
                        .iter()
                        .flat_map(|slice| slice.to_vec())
                        .collect();
                    let some = rand::random_range(1..=bytes.len());
                    written.extend_from_slice(&bytes[..some]);
                    output.progress(some)
                };
                messages += progress.messages;
                progress.apply(&mut cursor, &taken, &mut control, recipient);
            }
            let (items, count) = wanted(&batches, recipient);
            let mut rest = &written[..];
            for item in items.iter().map(Vec::as_slice).chain([&[][..]]) {
                while let Some(behind) = rest.strip_prefix(PING) {
                    rest = behind;
                    pings -= 1;
                }
                rest = rest.strip_prefix(item).expect("the next item, whole");
            }
            assert_eq!(
                (rest.len(), pings, messages),
                (0, 0, count),
                "{recipient:?}"
            );
        }
    }
}
