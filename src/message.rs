//! Messages and batches: the bytes everybody shares. A batch is built once, framed as it is built,
//! and never changes.

mod deflate;
mod encoding;
mod id;
mod missed;
mod origin;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha1::Digest as _;

pub use self::deflate::DeflateWindow;
use self::encoding::{Encoded, OTHERS};
pub use self::encoding::{Format, Shape, put_gap, put_json, put_text};
pub use self::id::{MessageId, NoId};
pub use self::missed::Missed;
pub use self::origin::{PublisherId, Sequence};
use crate::budget::{Budget, Charge, Part};
use crate::frame;
pub use crate::frame::Kind;

/// A batch closes to more messages at this size, in bytes of frames. It bounds what one slow reader
/// can keep alive, and one Redis command; a single larger message is a batch of its own.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Tells the contents of messages apart: SHA-1 of the kind and the payload. A client that finds two
/// with the same digest harms only its own keys.
pub type Digest = [u8; 20];

/// A batch of so many bytes is worth a copy that takes no more memory than it needs.
const LARGE_BATCH: usize = 4 * 1024;

/// Messages that travel together, in order: what had piled up on a channel while the broker was
/// busy. Or none of them: then it marks a place where messages are missing.
#[derive(Debug)]
pub struct Batch {
    /// Which history the offset belongs to; 0 if there is none, and its messages have no ids.
    pub epoch: u64,
    /// The offset of the first message in its channel; offsets are contiguous.
    pub offset: u64,
    /// How many offsets it takes: as many as messages, but none for what did not come from a node.
    pub span: u64,
    /// If messages are missing here: how many.
    pub gap: Option<Missed>,
    /// When the publishing node handed it to its broker, in nanoseconds since 1970.
    pub published_ns: u64,
    messages: Box<[Place]>,
    raw: Bytes,
    /// In the other formats, each once somebody reads it.
    others: [OnceLock<Box<Encoded>>; OTHERS],
    /// What those cost, as far as the feed knows.
    grown: AtomicUsize,
    /// Counts all of it for as long as anybody holds it.
    charge: Option<Charge>,
}

/// Where a message's payload lies among the raw frames. Its frame begins where the one before
/// ended.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: Kind,
    start: u32,
    end: u32,
    /// The connection of this node that said it and does not want to hear it; 0 is none.
    sender: u32,
}

impl Batch {
    /// The mark of a place where messages are missing.
    pub fn gap(epoch: u64, offset: u64, missed: Missed) -> Self {
        let mut batch = BatchBuilder::default().build(now_ns());
        (batch.epoch, batch.offset, batch.gap) = (epoch, offset, Some(missed));
        batch
    }

    /// How many messages it holds; none only if it marks a gap.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it only marks a gap.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// All messages as unmasked WebSocket frames, one after another: the raw format's bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The messages, in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = (Kind, &[u8])> {
        self.messages.iter().map(|place| {
            (
                place.kind,
                &self.raw[place.start as usize..place.end as usize],
            )
        })
    }

    /// Message `index`.
    pub fn message(&self, index: usize) -> Option<(Kind, &[u8])> {
        self.messages.get(index).map(|place| {
            (
                place.kind,
                &self.raw[place.start as usize..place.end as usize],
            )
        })
    }

    /// What message `index` is called, if it can be found again.
    pub fn id(&self, index: usize) -> Option<MessageId> {
        let known = self.epoch != 0 && (index as u64) < self.span;
        known.then(|| MessageId {
            epoch: self.epoch,
            offset: self.offset + index as u64,
        })
    }

    /// When it was published, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.published_ns / 1_000_000
    }

    /// The offset that comes next after it.
    pub fn end(&self) -> u64 {
        self.offset + self.span
    }

    /// All items in this format, one after another. An item is a message, or the mark of a gap.
    pub fn bytes(&self, format: Format) -> &Bytes {
        self.encoded(format)
            .map_or(&self.raw, |encoded| &encoded.bytes)
    }

    /// How many items there are in this format.
    pub fn items(&self, format: Format) -> usize {
        self.encoded(format)
            .map_or(self.messages.len(), |encoded| encoded.ends.len())
    }

    /// Where the first `items` items end in [`Self::bytes`].
    pub fn end_of(&self, format: Format, items: usize) -> usize {
        let Some(last) = items.checked_sub(1) else {
            return 0;
        };
        self.encoded(format)
            .map_or_else(|| self.messages[last].end, |encoded| encoded.ends[last]) as usize
    }

    /// How many items end at or before byte `at` of [`Self::bytes`].
    pub fn items_before(&self, format: Format, at: usize) -> usize {
        match self.encoded(format) {
            None => self
                .messages
                .partition_point(|place| place.end as usize <= at),
            Some(encoded) => encoded.ends.partition_point(|end| *end as usize <= at),
        }
    }

    /// Whether this connection said message `index`.
    pub fn is_from(&self, index: usize, sender: u32) -> bool {
        self.messages
            .get(index)
            .is_some_and(|place| place.sender == sender)
    }

    /// Whether this connection said any of them.
    pub fn has_any_from(&self, sender: u32) -> bool {
        self.messages.iter().any(|place| place.sender == sender)
    }

    /// Whether this connection said all of them, so that nothing of it goes back there.
    pub fn is_all_from(&self, sender: u32) -> bool {
        !self.is_empty() && self.messages.iter().all(|place| place.sender == sender)
    }

    fn encoded(&self, format: Format) -> Option<&Encoded> {
        let cell = &self.others[format.index()?];
        Some(cell.get_or_init(|| {
            let encoded = Box::new(Encoded::new(self, format));
            if let Some(charge) = &self.charge {
                charge.grow(encoded.weight());
            }
            encoded
        }))
    }

    /// Whether somebody has read it in this format, so that it costs nothing to make.
    pub fn is_encoded(&self, format: Format) -> bool {
        format
            .index()
            .is_none_or(|index| self.others[index].get().is_some())
    }

    /// Counts its bytes, those of further encodings included, until the last reader drops it.
    pub fn charge(&mut self, budget: &Arc<Budget>, part: Part) {
        // First, so that a batch which moves from one part to another is never uncounted.
        let charge = budget.charge(part, self.own_weight() + self.encoded_bytes());
        self.charge = Some(charge);
    }

    /// Bytes that it takes in memory; those of other formats only as far as [`Self::grow`] has
    /// taken them in.
    pub fn weight(&self) -> usize {
        self.own_weight() + self.grown.load(Relaxed)
    }

    fn own_weight(&self) -> usize {
        self.raw.len() + self.messages.len() * size_of::<Place>() + size_of::<Self>()
    }

    /// Whether it has been encoded into something that its weight does not know of.
    pub fn has_grown(&self) -> bool {
        self.encoded_bytes() > self.grown.load(Relaxed)
    }

    /// Takes into its weight what it has been encoded into; returns by how much it grew. Called
    /// under its feed's lock.
    pub fn grow(&self) -> usize {
        let size = self.encoded_bytes();
        size - self.grown.swap(size, Relaxed)
    }

    fn encoded_bytes(&self) -> usize {
        let cells = self.others.iter().filter_map(OnceLock::get);
        cells.map(|encoded| encoded.weight()).sum()
    }
}

/// A batch in the making: messages are framed as they are added, the only copy of a payload on its
/// way through a node.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    messages: Vec<Place>,
    raw: Vec<u8>,
}

impl BatchBuilder {
    /// Adds a message. Payloads are bounded by the frame reader or the envelope, far below the 4
    /// GiB places can tell. `sender` is the connection of this node that does not want to hear it
    /// back; 0 is none.
    pub fn push(&mut self, kind: Kind, payload: &[u8], sender: u32) {
        frame::encode_header(kind, payload.len(), &mut self.raw);
        let start = self.raw.len();
        self.raw.extend_from_slice(payload);
        self.messages.push(Place {
            kind,
            start: start as u32,
            end: self.raw.len() as u32,
            sender,
        });
    }

    /// Makes room for `messages` of `bytes` payload in all.
    pub fn reserve(&mut self, messages: usize, bytes: usize) {
        self.messages.reserve_exact(messages);
        self.raw
            .reserve_exact(bytes + messages * frame::MAX_SERVER_HEADER);
    }

    /// Whether the next message belongs into another batch.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= BATCH_BYTES
    }

    /// How many messages it holds so far.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of frames so far.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// The digest of the first message, if there is one.
    pub fn digest(&self) -> Option<Digest> {
        let place = self.messages.first()?;
        let kind = if place.kind == Kind::Binary { [1] } else { [0] };
        let payload = &self.raw[place.start as usize..place.end as usize];
        Some(
            sha1::Sha1::new()
                .chain_update(kind)
                .chain_update(payload)
                .finalize()
                .into(),
        )
    }

    /// The messages on their own, in order, sharing one buffer.
    pub fn into_messages(self) -> impl ExactSizeIterator<Item = (Kind, Bytes, u32)> {
        let raw = Bytes::from(self.raw);
        let payload = move |place: &Place| raw.slice(place.start as usize..place.end as usize);
        self.messages
            .into_iter()
            .map(move |place| (place.kind, payload(&place), place.sender))
    }

    /// Ends the making. Epoch, offset and span are given by the feed that takes it.
    pub fn build(mut self, published_ns: u64) -> Batch {
        // A feed keeps it for long: give back what doubling left over.
        if self.raw.capacity() > self.raw.len() + self.raw.len() / 4 {
            if self.raw.len() >= LARGE_BATCH {
                // Asked to shrink a block by less than half, the allocator leaves it as it is.
                self.raw = self.raw.as_slice().to_vec();
            } else {
                self.raw.shrink_to_fit();
            }
        }
        Batch {
            epoch: 0,
            offset: 0,
            span: 0,
            gap: None,
            published_ns,
            messages: self.messages.into(),
            raw: self.raw.into(),
            others: Default::default(),
            grown: AtomicUsize::new(0),
            charge: None,
        }
    }
}

/// Nanoseconds since 1970, the clock of everything published: comparable between nodes as far as
/// their clocks agree.
pub fn now_ns() -> u64 {
    std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_nanos() as u64)
}
