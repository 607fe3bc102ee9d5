//! The command that publishes a batch.

use prost::Message as _;
use redis::Pipeline;

use super::super::{META_OUTLIVES, REMEMBER_PUBLISHERS, Redis};
use super::Sending;
use crate::hub::Channel;
use crate::message::{MessageId, Sequence, now_ns};

/// The newest message of a channel that this node knows of. Redis must not give its offset again.
struct Seen {
    id: MessageId,
    /// Its sequence if this node published it, Redis acknowledged it, and it was not received back
    /// yet: then perhaps nobody else knows of it.
    in_flight: Option<Sequence>,
    /// It is so new that Redis still remembers this publisher, if it has lost nothing.
    is_remembered: bool,
}

impl Redis {
    /// Adds the command that publishes a batch. `previous` is the last message before it in the
    /// same pipeline.
    pub(super) fn add_publish(
        &self,
        pipeline: &mut Pipeline,
        script: &str,
        sending: &Sending,
        previous: Option<Sequence>,
    ) {
        if self.retention.messages == 0 {
            let pubsub = self.names.pubsub(&sending.pending.channel.name);
            pipeline
                .cmd(self.publish_command())
                .arg(pubsub)
                .arg(sending.envelope.encode_payload());
            return;
        }
        // In the order of KEYS and ARGV in `publish.lua`.
        pipeline.cmd("EVALSHA").arg(script);
        self.add_keys(pipeline, &sending.pending.channel);
        self.add_batch(pipeline, sending, previous);
        self.add_retention(pipeline);
        self.add_history(pipeline, &sending.pending.channel);
    }

    fn add_keys(&self, pipeline: &mut Pipeline, channel: &Channel) {
        let (names, name) = (&self.names, &channel.name);
        pipeline
            .arg(3)
            .arg(names.meta(name))
            .arg(names.stream(name))
            .arg(names.keys(name))
            .arg(names.pubsub(name))
            .arg(self.publish_command());
    }

    fn add_batch(&self, pipeline: &mut Pipeline, sending: &Sending, previous: Option<Sequence>) {
        let pending = &sending.pending;
        let digest = sending.digest.as_ref().map_or(&[][..], |digest| digest);
        pipeline
            .arg(sending.envelope.publisher_id().to_string())
            .arg(digits(pending.last()))
            .arg(previous.map(digits).unwrap_or_default())
            .arg(pending.count)
            .arg(sending.envelope.encode_to_vec())
            .arg(pending.key.as_deref().unwrap_or_default())
            .arg(digest);
    }

    fn add_retention(&self, pipeline: &mut Pipeline) {
        let retention = &self.retention;
        pipeline
            .arg(retention.messages)
            .arg(retention.history_bytes)
            .arg(retention.ttl.as_millis() as u64)
            .arg((retention.ttl + META_OUTLIVES).as_millis() as u64)
            .arg(REMEMBER_PUBLISHERS.as_secs())
            .arg(now_ns() / 1_000_000_000);
    }

    fn add_history(&self, pipeline: &mut Pipeline, channel: &Channel) {
        let new_epoch = rand::random::<u64>().max(1);
        let seen = Seen::of(channel);
        pipeline
            .arg(&new_epoch.to_le_bytes()[..])
            .arg(&seen.id.epoch.to_le_bytes()[..])
            .arg(seen.id.offset)
            .arg(seen.in_flight.map(digits).unwrap_or_default())
            .arg(u8::from(seen.is_remembered));
    }
}

impl Seen {
    fn of(channel: &Channel) -> Self {
        let (epoch, next_offset) = channel.feed.expects();
        match channel.in_flight.newest() {
            // One of another history than the feed's is of no use: when the histories changed,
            // readers got a gap.
            Some(newest) if epoch == 0 || epoch == newest.id.epoch => Self {
                id: newest.id,
                in_flight: Some(newest.sequence),
                is_remembered: newest.since.elapsed() < REMEMBER_PUBLISHERS / 2,
            },
            _ => Self {
                id: MessageId {
                    epoch,
                    offset: next_offset - 1,
                },
                in_flight: None,
                is_remembered: false,
            },
        }
    }
}

/// So many that sequences compare as text.
fn digits(sequence: Sequence) -> String {
    format!("{:020}", sequence.0)
}
