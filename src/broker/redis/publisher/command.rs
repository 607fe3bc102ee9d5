//! The command that publishes a batch.

use prost::Message as _;
use redis::Pipeline;

use super::super::{META_OUTLIVES, Redis};
use super::Sending;
use crate::hub::{Channel, PendingBatch};
use crate::message::{MessageId, Sequence, now_ns};

impl Redis {
    /// Adds the command that publishes a batch. `previous` is the number of the message before it,
    /// if that is in the same pipeline.
    pub(super) fn add_publish(
        &self,
        pipeline: &mut Pipeline,
        script: &str,
        sending: &Sending,
        previous: Option<Sequence>,
    ) {
        let Sending {
            pending:
                PendingBatch {
                    channel,
                    key,
                    count,
                    ..
                },
            envelope,
            ..
        } = sending;
        let Self {
            names, retention, ..
        } = self;
        let name = &channel.name;
        if retention.messages == 0 {
            pipeline
                .cmd(self.publish_command())
                .arg(names.pubsub(name))
                .arg(envelope.encode_payload());
            return;
        }
        let digits = |sequence: Sequence| format!("{:020}", sequence.0);
        let (seen, held, lately) = self.known(channel);
        pipeline.cmd("EVALSHA").arg(script);
        pipeline
            .arg(3)
            .arg(names.meta(name))
            .arg(names.stream(name))
            .arg(names.keys(name));
        pipeline
            .arg(names.pubsub(name))
            .arg(envelope.publisher_id().to_string());
        pipeline
            .arg(digits(sending.pending.last()))
            .arg(previous.map(digits).unwrap_or_default())
            .arg(*count);
        pipeline
            .arg(envelope.encode_to_vec())
            .arg(key.as_deref().unwrap_or_default())
            .arg(retention.messages);
        pipeline
            .arg(retention.ttl.as_millis() as u64)
            .arg((retention.ttl + META_OUTLIVES).as_millis() as u64);
        pipeline
            .arg(&rand::random::<u64>().max(1).to_le_bytes()[..])
            .arg(now_ns() / 1_000_000_000);
        pipeline.arg(&seen.epoch.to_le_bytes()[..]).arg(seen.offset);
        pipeline
            .arg(self.publish_command())
            .arg(held.map(digits).unwrap_or_default())
            .arg(u8::from(lately));
        pipeline.arg(retention.history_bytes).arg(
            sending
                .digest
                .as_ref()
                .map_or(&[][..], |digest| &digest[..]),
        );
    }

    /// The newest message of a channel that this node knows of; its number if it is its own, held
    /// by Redis and not heard yet; and whether Redis must remember that, because it forgets nodes
    /// only after the life of a history.
    fn known(&self, channel: &Channel) -> (MessageId, Option<Sequence>, bool) {
        let (epoch, next_offset) = channel.feed.expects();
        match channel.in_flight.newest() {
            // Not if it was in another history than what has been heard: everybody has been told of
            // that.
            Some(held) if epoch == 0 || epoch == held.id.epoch => (
                held.id,
                Some(held.sequence),
                held.since.elapsed() < self.retention.ttl / 2,
            ),
            _ => (
                MessageId {
                    epoch,
                    offset: next_offset - 1,
                },
                None,
                false,
            ),
        }
    }
}
