//! Batches: messages of one channel that travel together, in every encoding that is read.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::encoding::{Encoded, OTHERS};
use super::{BatchBuilder, Format, Kind, MessageId, Missed, now_ns};
use crate::budget::{Budget, Charge, Part};

/// Messages that travel together, in order: all that piled up on a channel while the broker was
/// busy. A batch without messages marks a gap.
#[derive(Debug)]
pub struct Batch {
    /// The history that the offset belongs to. 0 if there is none: then its messages have no ids.
    pub epoch: u64,
    /// The offset of the first message in its channel; offsets are contiguous.
    pub offset: u64,
    /// How many offsets it takes: one a message, but none if it did not come from a node.
    pub span: u64,
    /// Messages that are missing here, if it marks a gap.
    pub gap: Option<Missed>,
    /// When the publishing node handed it to its broker, in nanoseconds since 1970.
    pub published_ns: u64,
    messages: Box<[FramedMessage]>,
    raw: Bytes,
    /// The other encodings, each made when somebody first reads it.
    others: [OnceLock<Box<Encoded>>; OTHERS],
    /// Bytes of those that the feed has counted.
    counted: AtomicUsize,
    /// Counts all bytes in the memory budget, as long as anybody holds the batch.
    charge: Option<Charge>,
}

/// Where a message's payload lies among the raw frames. Its frame begins at the end of the one
/// before.
#[derive(Clone, Copy, Debug)]
pub(super) struct FramedMessage {
    pub(super) kind: Kind,
    pub(super) start: u32,
    pub(super) end: u32,
    /// The connection of this node that published it and does not want it; 0 is none.
    pub(super) sender: u32,
}

impl FramedMessage {
    #[inline]
    fn payload(self, raw: &Bytes) -> &[u8] {
        &raw[self.start as usize..self.end as usize]
    }
}

impl Batch {
    /// A mark where messages are missing.
    pub(crate) fn gap(epoch: u64, offset: u64, missed: Missed) -> Self {
        let mut batch = BatchBuilder::default().build(now_ns());
        (batch.epoch, batch.offset, batch.gap) = (epoch, offset, Some(missed));
        batch
    }

    pub(super) fn new(messages: Box<[FramedMessage]>, raw: Bytes, published_ns: u64) -> Self {
        Self {
            epoch: 0,
            offset: 0,
            span: 0,
            gap: None,
            published_ns,
            messages,
            raw,
            others: Default::default(),
            counted: AtomicUsize::new(0),
            charge: None,
        }
    }

    /// Number of messages; 0 only if it marks a gap.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it only marks a gap.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// All messages as unmasked WebSocket frames, one after another: the raw format's bytes.
    #[inline]
    pub(crate) fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The messages, in order.
    pub(crate) fn messages(&self) -> impl ExactSizeIterator<Item = (Kind, &[u8])> {
        self.messages
            .iter()
            .map(|message| (message.kind, message.payload(&self.raw)))
    }

    /// Message `index`.
    pub(crate) fn message(&self, index: usize) -> Option<(Kind, &[u8])> {
        let message = self.messages.get(index)?;
        Some((message.kind, message.payload(&self.raw)))
    }

    /// The id of message `index`, if a history has it.
    pub(crate) fn id(&self, index: usize) -> Option<MessageId> {
        let has_id = self.epoch != 0 && (index as u64) < self.span;
        has_id.then(|| MessageId {
            epoch: self.epoch,
            offset: self.offset + index as u64,
        })
    }

    /// When it was published, in milliseconds since 1970.
    pub(crate) fn time_ms(&self) -> u64 {
        self.published_ns / 1_000_000
    }

    /// The offset that comes next after it.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.span
    }

    /// All items in this format, one after another. An item is a message, or the mark of a gap.
    #[inline]
    pub(crate) fn bytes(&self, format: Format) -> &Bytes {
        self.encoded(format)
            .map_or(&self.raw, |encoded| &encoded.bytes)
    }

    /// Number of items in this format.
    #[inline]
    pub(crate) fn items(&self, format: Format) -> usize {
        self.encoded(format)
            .map_or(self.messages.len(), |encoded| encoded.ends.len())
    }

    /// Where the first `items` items end in [`Self::bytes`].
    #[inline]
    pub(crate) fn end_of(&self, format: Format, items: usize) -> usize {
        let Some(last) = items.checked_sub(1) else {
            return 0;
        };
        self.encoded(format)
            .map_or_else(|| self.messages[last].end, |encoded| encoded.ends[last]) as usize
    }

    /// How many items end at or before byte `at` of [`Self::bytes`].
    #[inline]
    pub(crate) fn items_before(&self, format: Format, at: usize) -> usize {
        match self.encoded(format) {
            None => self
                .messages
                .partition_point(|message| message.end as usize <= at),
            Some(encoded) => encoded.ends.partition_point(|end| *end as usize <= at),
        }
    }

    /// Whether this connection published message `index`.
    #[inline]
    pub(crate) fn is_from(&self, index: usize, sender: u32) -> bool {
        self.messages
            .get(index)
            .is_some_and(|message| message.sender == sender)
    }

    /// Whether this connection published any of them.
    #[inline]
    pub(crate) fn has_any_from(&self, sender: u32) -> bool {
        self.messages.iter().any(|message| message.sender == sender)
    }

    /// Whether this connection published all of them, so that none goes back there.
    #[inline]
    pub(crate) fn is_all_from(&self, sender: u32) -> bool {
        !self.is_empty() && self.messages.iter().all(|message| message.sender == sender)
    }

    /// The batch in another format than the raw one, made if nobody has read it so far.
    #[inline]
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

    /// Whether the batch exists in this format already, so that it costs nothing to make.
    pub(crate) fn is_encoded(&self, format: Format) -> bool {
        format
            .index()
            .is_none_or(|index| self.others[index].get().is_some())
    }

    /// Counts its bytes, those of later encodings included, until the last reader drops it.
    pub(crate) fn charge(&mut self, budget: &Arc<Budget>, part: Part) {
        // The new charge first, so that a batch which moves between parts is never uncounted.
        let charge = budget.charge(part, self.own_weight() + self.encoded_bytes());
        self.charge = Some(charge);
    }

    /// Bytes that it takes in memory, with those encodings that [`Self::grow`] has counted.
    pub(crate) fn weight(&self) -> usize {
        self.own_weight() + self.counted.load(Relaxed)
    }

    fn own_weight(&self) -> usize {
        self.raw.len() + self.messages.len() * size_of::<FramedMessage>() + size_of::<Self>()
    }

    /// Whether it has encodings that its weight does not count yet.
    pub(crate) fn has_grown(&self) -> bool {
        self.encoded_bytes() > self.counted.load(Relaxed)
    }

    /// Counts new encodings in its weight; returns their bytes. Called under its feed's lock.
    pub(crate) fn grow(&self) -> usize {
        let bytes = self.encoded_bytes();
        bytes - self.counted.swap(bytes, Relaxed)
    }

    fn encoded_bytes(&self) -> usize {
        let cells = self.others.iter().filter_map(OnceLock::get);
        cells.map(|encoded| encoded.weight()).sum()
    }
}
