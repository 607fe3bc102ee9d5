//! The envelope: how a batch travels between nodes. A two-byte magic, then protobuf. Fields are only
//! ever added, and unknown ones ignored, so that old and new nodes run side by side.

use bytes::{BufMut, Bytes};
use prost::Message as _;

use crate::message::{BatchBuilder, Kind, PublisherId, Sequence};

/// The first bytes of a payload of ours. No UTF-8 text begins so: the first byte asks for a
/// continuation that the second is not.
pub const MAGIC: [u8; 2] = [0xEC, 0x01];

/// The highest offset, and the highest sequence. The numbers of Redis' scripts hold fifteen digits
/// exactly, which is a million messages a second for thirty years. Anything beyond is nonsense.
pub(crate) const HIGHEST: u64 = 999_999_999_999_999;

/// A batch on its way between nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    /// Which history the offset belongs to; 0 while history is not kept in Redis.
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    /// The first message's offset; 0 while history is not kept in Redis.
    #[prost(fixed64, tag = "2")]
    pub offset: u64,
    /// The channel's publisher on the node that sends this: a [`PublisherId`].
    #[prost(fixed64, tag = "3")]
    pub publisher_id: u64,
    /// The first message among those of this publisher, from 1: a [`Sequence`].
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// When the node handed the batch to its broker, in nanoseconds since 1970.
    #[prost(fixed64, tag = "5")]
    pub published_ns: u64,
    /// W3C trace context, empty if the batch is not traced.
    #[prost(string, tag = "6")]
    pub traceparent: String,
    /// At least one.
    #[prost(message, repeated, tag = "7")]
    pub messages: Vec<EnvelopeMessage>,
    /// Messages of this publisher before these that were never published: refused, or repeats of a
    /// key. Older versions leave it out.
    #[prost(uint64, tag = "8")]
    pub skipped: u64,
}

/// A message on its way between nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EnvelopeMessage {
    /// Whether it is binary; else it is UTF-8 text.
    #[prost(bool, tag = "1")]
    pub binary: bool,
    /// Its bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
    /// Under this key the history has the message once; empty if the client gave none.
    #[prost(string, tag = "3")]
    pub key: String,
    /// The publishing connection among those of its node, if it does not want its own messages back;
    /// else 0.
    #[prost(uint32, tag = "4")]
    pub sender: u32,
}

/// A pub/sub payload.
#[derive(Debug)]
pub enum Payload {
    /// A batch of a node.
    Batch(Envelope),
    /// Somebody else's message, such as `redis-cli PUBLISH`.
    Foreign(Kind, Bytes),
    /// Begins with the magic, but is no batch, or is empty, or has text that is not UTF-8 or numbers
    /// that cannot be.
    Malformed,
}

impl Envelope {
    /// The offset of its last message.
    pub(crate) fn last_offset(&self) -> u64 {
        self.offset + self.messages.len() as u64 - 1
    }

    /// Its publisher.
    pub(crate) fn publisher_id(&self) -> PublisherId {
        PublisherId(self.publisher_id)
    }

    /// Its first message among those of its publisher.
    pub(crate) fn first(&self) -> Sequence {
        Sequence(self.sequence)
    }

    /// How many messages its publisher has published before these.
    pub(crate) fn published_before(&self) -> u64 {
        self.sequence.saturating_sub(self.skipped).saturating_sub(1)
    }

    /// Its last message among those of its publisher.
    pub(crate) fn last(&self) -> Sequence {
        self.first().last_of(self.messages.len())
    }

    /// The payload to publish.
    pub fn encode_payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(MAGIC.len() + self.encoded_len());
        payload.put_slice(&MAGIC);
        // A Vec grows as it must, so this cannot fail.
        self.encode_raw(&mut payload);
        payload
    }

    fn is_sound(&self) -> bool {
        let ends = [self.offset, self.sequence]
            .map(|first| first.saturating_add(self.messages.len() as u64));
        !self.messages.is_empty()
            && ends.iter().all(|end| *end <= HIGHEST)
            && self.messages.iter().all(EnvelopeMessage::is_sound)
    }

    /// The messages, framed. `own`: whether this node published them, and so knows their senders.
    pub(crate) fn into_batch(self, own: bool) -> BatchBuilder {
        let mut batch = BatchBuilder::default();
        batch.reserve(
            self.messages.len(),
            self.messages.iter().map(|it| it.payload.len()).sum(),
        );
        for message in self.messages {
            let kind = if message.binary {
                Kind::Binary
            } else {
                Kind::Text
            };
            let sender = if own { message.sender } else { 0 };
            batch.push(kind, &message.payload, sender);
        }
        batch
    }
}

impl Payload {
    /// A batch, or somebody else's message.
    pub fn decode(payload: Bytes) -> Self {
        if !payload.starts_with(&MAGIC) {
            let kind = if simdutf8::basic::from_utf8(&payload).is_ok() {
                Kind::Text
            } else {
                Kind::Binary
            };
            return Self::Foreign(kind, payload);
        }
        match Envelope::decode(payload.slice(MAGIC.len()..)) {
            Ok(envelope) if envelope.is_sound() => Self::Batch(envelope),
            _ => Self::Malformed,
        }
    }
}

impl EnvelopeMessage {
    /// Clients close connections that bring them text which is not UTF-8. So text is checked here,
    /// once.
    fn is_sound(&self) -> bool {
        self.binary || simdutf8::basic::from_utf8(&self.payload).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let text = EnvelopeMessage {
            payload: "κόσμε".into(),
            ..EnvelopeMessage::default()
        };
        let binary = EnvelopeMessage {
            binary: true,
            payload: vec![0xff, 0].into(),
            key: "k".into(),
            sender: 7,
        };
        let messages = vec![text, binary, EnvelopeMessage::default()];
        Envelope {
            publisher_id: 3,
            sequence: 9,
            published_ns: 5,
            messages,
            ..Envelope::default()
        }
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        match Payload::decode(envelope().encode_payload().into()) {
            Payload::Batch(decoded) => assert_eq!(decoded, envelope()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_ignored() {
        let mut payload = envelope().encode_payload();
        prost::encoding::string::encode(99, &"new".to_owned(), &mut payload);
        assert!(
            matches!(Payload::decode(payload.into()), Payload::Batch(decoded) if decoded == envelope())
        );
    }

    #[test]
    fn what_is_not_ours_is_relayed_and_what_is_broken_is_malformed() {
        assert!(
            matches!(Payload::decode("hello".into()), Payload::Foreign(Kind::Text, bytes) if bytes == "hello")
        );
        assert!(matches!(
            Payload::decode(vec![0xff].into()),
            Payload::Foreign(Kind::Binary, _)
        ));
        assert!(
            matches!(Payload::decode(Bytes::new()), Payload::Foreign(Kind::Text, bytes) if bytes.is_empty())
        );
        assert!(matches!(
            Payload::decode(MAGIC.to_vec().into()),
            Payload::Malformed
        ));
        let whole = envelope().encode_payload();
        assert!(matches!(
            Payload::decode(whole[..whole.len() - 1].to_vec().into()),
            Payload::Malformed
        ));
        let not_text = EnvelopeMessage {
            payload: vec![0xff].into(),
            ..EnvelopeMessage::default()
        };
        let lie = Envelope {
            messages: vec![not_text],
            ..Envelope::default()
        };
        assert!(matches!(
            Payload::decode(lie.encode_payload().into()),
            Payload::Malformed
        ));
        for (offset, sequence) in [(u64::MAX, 1), (HIGHEST, 1), (1, u64::MAX), (1 << 53, 1)] {
            let beyond = Envelope {
                offset,
                sequence,
                ..envelope()
            };
            assert!(matches!(
                Payload::decode(beyond.encode_payload().into()),
                Payload::Malformed
            ));
        }
    }
}
