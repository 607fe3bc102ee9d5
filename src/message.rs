//! Messages and batches: the bytes everybody shares. A batch is built once, framed as it is built, and never changes.

use bytes::Bytes;

use crate::ws::frame;

/// How a message was said, and so how it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// A batch closes to more messages at this size, in bytes of frames. It bounds what one slow reader can keep alive, and
/// one Redis command; a single larger message is a batch of its own.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Messages that travel together, in order: what had piled up on a channel while the broker was busy.
#[derive(Debug)]
pub struct Batch {
    /// The offset of the first message in its channel; offsets are contiguous.
    pub offset: u64,
    /// How many offsets it takes: as many as messages, but none for what did not come from a node.
    pub span: u64,
    /// When the publishing node handed it to its broker, in nanoseconds since 1970.
    pub published_ns: u64,
    messages: Box<[Place]>,
    raw: Bytes,
}

/// Where a message's payload lies among the raw frames. Its frame begins where the one before ended.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: Kind,
    start: u32,
    end: u32,
}

impl Batch {
    /// How many messages it holds, at least one.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Never true of a batch in a feed; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// All messages as unmasked WebSocket frames, one after another: the raw format's bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// How many messages end at or before byte `at` of [`Self::raw`].
    pub fn messages_before(&self, at: usize) -> usize {
        self.messages.partition_point(|place| place.end as usize <= at)
    }

    /// The end of the frame that holds byte `at` of [`Self::raw`]; `at` itself if a frame begins there.
    pub fn frame_boundary(&self, at: usize) -> usize {
        let before = self.messages.partition_point(|place| (place.end as usize) < at);
        if at == 0 { 0 } else { self.messages.get(before).map_or(self.raw.len(), |place| place.end as usize) }
    }

    /// Where the frame of message `index` begins in [`Self::raw`].
    pub fn frame_start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.messages[before].end as usize)
    }

    /// What it costs to keep, in bytes.
    pub fn weight(&self) -> usize {
        self.raw.len() + self.messages.len() * size_of::<Place>() + size_of::<Self>()
    }
}

/// A batch in the making: messages are framed as they are added, the only copy of a payload on its way through a node.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    messages: Vec<Place>,
    raw: Vec<u8>,
}

impl BatchBuilder {
    /// Adds a message. Payloads are bounded by the frame reader or the envelope, far below the 4 GiB places can tell.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) {
        frame::encode_header(kind, payload.len(), &mut self.raw);
        let start = self.raw.len();
        self.raw.extend_from_slice(payload);
        self.messages.push(Place { kind, start: start as u32, end: self.raw.len() as u32 });
    }

    /// Makes room for `messages` of `bytes` payload in all.
    pub fn reserve(&mut self, messages: usize, bytes: usize) {
        self.messages.reserve_exact(messages);
        self.raw.reserve_exact(bytes + messages * frame::MAX_SERVER_HEADER);
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

    /// The messages on their own, in order, sharing one buffer.
    pub fn into_messages(self) -> impl ExactSizeIterator<Item = (Kind, Bytes)> {
        let raw = Bytes::from(self.raw);
        self.messages.into_iter().map(move |place| (place.kind, raw.slice(place.start as usize..place.end as usize)))
    }

    /// Ends the making. Offset and span are given by the feed that takes it.
    pub fn build(mut self, published_ns: u64) -> Batch {
        // A feed keeps it for long: give back what doubling left over.
        if self.raw.capacity() > self.raw.len() + self.raw.len() / 4 {
            self.raw.shrink_to_fit();
        }
        Batch { offset: 0, span: 0, published_ns, messages: self.messages.into(), raw: self.raw.into() }
    }
}

/// Nanoseconds since 1970, the clock of everything published: comparable between nodes as far as their clocks agree.
pub fn now_ns() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}
