//! Building batches: each message is framed as it is added, which is the only copy of a payload on
//! its way through a node.

use bytes::Bytes;
use sha1::Digest as _;

use super::batch::FramedMessage;
use super::{Batch, Kind};
use crate::frame;

/// Bytes of frames at which a batch takes no more messages; a larger message is a batch of its own.
/// It bounds the memory that one slow reader can keep alive, and one Redis command.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of frames from which a copy is worth its time, because it takes only the memory it needs.
const LARGE_BATCH: usize = 4 * 1024;

/// Tells the contents of messages apart: SHA-1 of the kind and the payload. A client that finds two
/// messages with the same digest harms only its own keys.
pub(crate) type Digest = [u8; 20];

/// A batch that still takes messages.
#[derive(Debug, Default)]
pub(crate) struct BatchBuilder {
    messages: Vec<FramedMessage>,
    raw: Vec<u8>,
}

impl BatchBuilder {
    /// Adds a message. Frame reader and envelope bound its payload, far below the 4 GiB that
    /// offsets of 32 bits can name. `sender` is the connection of this node that does not want its
    /// own message; 0 is none.
    pub(crate) fn push(&mut self, kind: Kind, payload: &[u8], sender: u32) {
        frame::encode_header(kind, payload.len(), &mut self.raw);
        let start = self.raw.len();
        self.raw.extend_from_slice(payload);
        self.messages.push(FramedMessage {
            kind,
            start: start as u32,
            end: self.raw.len() as u32,
            sender,
        });
    }

    /// Makes room for `messages` of `bytes` payload in all.
    pub(crate) fn reserve(&mut self, messages: usize, bytes: usize) {
        self.messages.reserve_exact(messages);
        self.raw
            .reserve_exact(bytes + messages * frame::MAX_SERVER_HEADER);
    }

    /// Whether the next message has to go into another batch.
    pub(crate) fn is_full(&self) -> bool {
        self.raw.len() >= BATCH_BYTES
    }

    /// Number of messages so far.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of frames so far.
    pub(crate) fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// The digest of the first message, if there is one.
    pub(crate) fn digest(&self) -> Option<Digest> {
        let message = self.messages.first()?;
        let kind = if message.kind == Kind::Binary {
            [1]
        } else {
            [0]
        };
        let payload = &self.raw[message.start as usize..message.end as usize];
        let digest = sha1::Sha1::new().chain_update(kind).chain_update(payload);
        Some(digest.finalize().into())
    }

    /// The messages on their own, in order, sharing one buffer.
    pub(crate) fn into_messages(self) -> impl ExactSizeIterator<Item = (Kind, Bytes, u32)> {
        let raw = Bytes::from(self.raw);
        self.messages.into_iter().map(move |message| {
            let payload = raw.slice(message.start as usize..message.end as usize);
            (message.kind, payload, message.sender)
        })
    }

    /// Makes the batch. The feed that takes it sets epoch, offset and span.
    pub(crate) fn build(mut self, published_ns: u64) -> Batch {
        self.shrink();
        Batch::new(self.messages.into(), self.raw.into(), published_ns)
    }

    /// Gives back the room that doubling left over, because a feed keeps the batch for long.
    fn shrink(&mut self) {
        let length = self.raw.len();
        if self.raw.capacity() <= length + length / 4 {
            return;
        }
        if length >= LARGE_BATCH {
            // A copy: the allocator does not shrink a block by less than half.
            self.raw = self.raw.as_slice().to_vec();
        } else {
            self.raw.shrink_to_fit();
        }
    }
}
