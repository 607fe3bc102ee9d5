//! The work of a publisher: the pipeline that is on its way, and the batches behind it.

use std::collections::HashSet;
use std::time::Instant;

use super::super::super::envelope::{Envelope, EnvelopeMessage};
use super::queue::Queue;
use crate::channel::ChannelName;
use crate::hub::PendingBatch;
use crate::message::{BatchBuilder, Digest, Kind};

/// Bytes that a command counts beside its payload: it takes Redis about as long as so many bytes.
const COMMAND_BYTES: usize = 256;

/// Batches that were taken from the inbox and are not settled; each channel's in order.
#[derive(Default)]
pub(in super::super) struct Load {
    /// The pipeline that is, or may be, on its way.
    pub(in super::super) sending: Vec<Sending>,
    /// Behind it.
    pub(in super::super) queue: Queue,
}

/// A batch in a pipeline.
pub(in super::super) struct Sending {
    pub(in super::super) pending: PendingBatch,
    pub(super) envelope: Envelope,
    /// Tells a repetition from another message under the same key; `None` without a key.
    pub(super) digest: Option<Digest>,
    /// Times it was sent without an answer: then it may be published.
    pub(super) unanswered: u32,
    /// When the server refused it first.
    pub(super) refused_at: Option<Instant>,
}

impl Load {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.sending.is_empty() && self.queue.is_empty()
    }

    /// Fills the pipeline up to `most` bytes, a batch of each channel in turn. Channels of which
    /// something is left in it wait: their batches must not overtake each other.
    pub(super) fn fill_pipeline(
        &mut self,
        most: usize,
        published_ns: u64,
        observe: impl Fn(usize),
    ) {
        // A channel's batch that is still in the pipeline must come before its next one.
        let left: HashSet<ChannelName> = self
            .sending
            .iter()
            .map(|sending| sending.pending.channel.name.clone())
            .collect();
        let mut sum = bytes(&self.sending);
        while sum < most
            && let Some(pending) = self.queue.next(&left)
        {
            observe(pending.count);
            sum += pending.batch.bytes() + COMMAND_BYTES;
            self.sending.push(Sending::new(pending, published_ns));
        }
    }
}

/// Bytes of a pipeline.
pub(super) fn bytes(sending: &[Sending]) -> usize {
    sending
        .iter()
        .map(|sending| sending.pending.bytes + COMMAND_BYTES)
        .sum()
}

impl Sending {
    fn new(mut pending: PendingBatch, published_ns: u64) -> Self {
        let batch = std::mem::take(&mut pending.batch);
        let traceparent = pending.trace("redis");
        // Only with a key: a digest costs as much as everything else here.
        let digest = pending.key.as_ref().and_then(|_| batch.digest());
        let envelope = Envelope {
            publisher_id: pending.channel.publisher_id.0,
            sequence: pending.first.0,
            published_ns,
            traceparent,
            messages: messages(batch, pending.key.as_deref()),
            ..Envelope::default()
        };
        Self {
            pending,
            envelope,
            digest,
            unanswered: 0,
            refused_at: None,
        }
    }

    /// Takes note of messages before it that were refused meanwhile.
    pub(super) fn update_skipped(&mut self) {
        let PendingBatch { channel, first, .. } = &self.pending;
        self.envelope.skipped = channel.skipped.before(*first);
    }

    /// It will not be published.
    pub(super) fn note_skipped(&self) {
        let PendingBatch {
            channel,
            first,
            count,
            ..
        } = &self.pending;
        channel.skipped.add(*first, *count as u64);
    }
}

fn messages(batch: BatchBuilder, key: Option<&str>) -> Vec<EnvelopeMessage> {
    batch
        .into_messages()
        .map(|(kind, payload, sender)| EnvelopeMessage {
            binary: kind == Kind::Binary,
            payload,
            key: key.map(str::to_owned).unwrap_or_default(),
            sender,
        })
        .collect()
}
