//! A batch between the inbox and the broker: taken, and neither acknowledged nor rejected.

use std::sync::Arc;

use tracing::Span;

use super::Channel;
use super::publication::Draft;
use super::receipt::{PublishError, Receipt};
use crate::message::{BatchBuilder, MessageId, Sequence};
use crate::telemetry;

/// Messages of one channel, taken from the inbox together.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    /// The channel they are published on.
    pub channel: Arc<Channel>,
    /// The batch's first message among those of its channel's [`Channel::publisher_id`].
    pub first: Sequence,
    /// Number of messages.
    pub count: usize,
    /// Bytes that they take in the inbox until [`super::Inbox::settle`].
    pub bytes: usize,
    /// The messages, framed.
    pub batch: BatchBuilder,
    /// The key of its one message, by which repetitions are recognised.
    pub key: Option<String>,
    /// The trace that its one message continues.
    traceparent: Option<String>,
    /// The span of the publish, from [`Self::trace`] until this is dropped.
    span: Span,
    /// Receipts to answer, each with the index of its message.
    receipts: Vec<(usize, Receipt)>,
}

impl PendingBatch {
    pub(super) fn new(channel: Arc<Channel>, first: Sequence, draft: Draft) -> Self {
        Self {
            channel,
            first,
            count: draft.batch.len(),
            bytes: draft.bytes,
            batch: draft.batch,
            key: draft.key,
            traceparent: draft.traceparent,
            span: Span::none(),
            receipts: draft.receipts,
        }
    }

    /// The batch's last message.
    pub(crate) fn last(&self) -> Sequence {
        self.first.last_of(self.count)
    }

    /// Whether a publisher waits for the result.
    pub(crate) fn has_receipts(&self) -> bool {
        !self.receipts.is_empty()
    }

    /// Begins the span of the publish, to the broker that traces call `system`. Returns the context
    /// to send along, empty if this is not traced.
    pub(crate) fn trace(&mut self, system: &str) -> String {
        let (channel, parent) = (self.channel.name.as_str(), self.traceparent.as_deref());
        self.span = telemetry::publish_span(system, channel, self.count, parent);
        telemetry::traceparent(&self.span)
    }

    /// The broker has acknowledged it. `last` is the id of its last message, if the broker keeps
    /// history.
    pub(crate) fn acknowledge(&mut self, last: Option<MessageId>) {
        let count = self.count;
        for (index, receipt) in self.receipts.drain(..) {
            let id = last.map(|id| MessageId {
                offset: id.offset - (count - 1 - index) as u64,
                ..id
            });
            receipt.answer(Ok(id));
        }
    }

    /// The broker will never keep it.
    pub(crate) fn reject(&mut self, why: &PublishError) {
        telemetry::failed(&self.span, &why.to_string());
        for (_, receipt) in self.receipts.drain(..) {
            receipt.answer(Err(why.clone()));
        }
    }
}
