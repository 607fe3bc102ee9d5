//! Publishing: a session adds the messages it has just read to its channel's outbox, where they
//! wait in batches until the broker takes them.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};

use super::receipt::Receipt;
use super::{Channel, Inbox, lock};
use crate::message::{BatchBuilder, Kind, Sequence};

/// Bytes that a message costs in the inbox beside its frame.
const MESSAGE_BYTES: usize = 16;

/// Bytes that a receipt costs beside its reference, until it is answered.
const RECEIPT_BYTES: usize = 96;

/// Bytes that a batch costs beside its messages.
const DRAFT_BYTES: usize = 256;

/// One session publishing the messages it has just read, under one lock and with one wake of the
/// broker.
pub(crate) struct Publication<'a> {
    channel: &'a Arc<Channel>,
    inbox: &'a Inbox,
    outbox: MutexGuard<'a, Outbox>,
    /// The trace that the next message continues.
    traceparent: Option<String>,
    messages: usize,
    bytes: usize,
}

impl<'a> Publication<'a> {
    pub(super) fn new(channel: &'a Arc<Channel>, inbox: &'a Inbox) -> Self {
        Self {
            channel,
            inbox,
            outbox: lock(&channel.outbox),
            traceparent: None,
            messages: 0,
            bytes: 0,
        }
    }

    /// The next message continues this trace.
    pub(crate) fn continuing(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }

    /// Adds a message; returns its number, to wait until it is received back. `sender` is the
    /// connection that does not want its own message; 0 is none.
    #[cfg(test)]
    pub(crate) fn push(&mut self, kind: Kind, payload: &[u8], sender: u32) -> Sequence {
        self.push_with(kind, payload, sender, None, None)
    }

    /// Adds a message with a key, under which it is kept once, and a receipt that is answered when
    /// the broker has acknowledged it.
    pub(crate) fn push_with(
        &mut self,
        kind: Kind,
        payload: &[u8],
        sender: u32,
        key: Option<String>,
        receipt: Option<Receipt>,
    ) -> Sequence {
        let traceparent = self.traceparent.take();
        let travels_alone = key.is_some() || traceparent.is_some();
        let outbox = &mut *self.outbox;
        if !outbox.takes_another(travels_alone, receipt.is_some()) {
            self.bytes += outbox.begin_draft(key, traceparent);
        }
        self.bytes += outbox.add(kind, payload, sender, receipt);
        self.messages += 1;
        outbox.newest
    }

    /// Whether the inbox takes another message of this channel.
    pub(crate) fn has_room(&self) -> bool {
        self.inbox
            .has_room_beside(self.channel, self.messages, self.bytes)
    }
}

impl Drop for Publication<'_> {
    fn drop(&mut self) {
        if self.messages == 0 {
            return;
        }
        // The inbox lists a channel once, until the broker takes its messages.
        let is_listed = std::mem::replace(&mut self.outbox.queued, true);
        self.inbox
            .add(self.channel, is_listed, self.messages, self.bytes);
    }
}

/// Messages that a channel's clients on this node have published and the broker has not taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    drafts: VecDeque<Draft>,
    /// The newest message published here.
    newest: Sequence,
    /// The inbox lists the channel.
    queued: bool,
}

/// A batch that still grows.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) batch: BatchBuilder,
    pub(super) key: Option<String>,
    pub(super) traceparent: Option<String>,
    /// Receipts of its messages, each with the index of its message.
    pub(super) receipts: Vec<(usize, Receipt)>,
    /// Its cost in the inbox: frames, key, trace and receipts.
    pub(super) bytes: usize,
}

impl Outbox {
    pub(super) fn has_published(&self) -> bool {
        self.newest > Sequence::default()
    }

    /// Takes all batches; returns the number of the first message, too.
    pub(super) fn take(&mut self) -> (VecDeque<Draft>, Sequence) {
        self.queued = false;
        let drafts = std::mem::take(&mut self.drafts);
        let messages: usize = drafts.iter().map(|draft| draft.batch.len()).sum();
        (drafts, Sequence(self.newest.0 + 1 - messages as u64))
    }

    #[inline]
    fn takes_another(&self, travels_alone: bool, has_receipt: bool) -> bool {
        let newest = self.drafts.back();
        newest.is_some_and(|draft| draft.takes(travels_alone, has_receipt))
    }

    /// Begins another batch; returns its cost.
    fn begin_draft(&mut self, key: Option<String>, traceparent: Option<String>) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = DRAFT_BYTES + length(&key) + length(&traceparent);
        self.drafts.push_back(Draft {
            key,
            traceparent,
            bytes,
            ..Draft::default()
        });
        bytes
    }

    /// Adds a message to the newest batch; returns its cost.
    #[inline]
    fn add(&mut self, kind: Kind, payload: &[u8], sender: u32, receipt: Option<Receipt>) -> usize {
        self.newest = self.newest.next();
        let newest = self.drafts.back_mut();
        newest.map_or(0, |draft| draft.push(kind, payload, sender, receipt))
    }
}

impl Draft {
    /// Whether another message may join it.
    #[inline]
    fn takes(&self, travels_alone: bool, has_receipt: bool) -> bool {
        // A message with a key travels alone, because the broker keeps or drops whole batches. So
        // does one with a trace of its own.
        let is_alone = self.key.is_some() || self.traceparent.is_some();
        // Messages with and without receipts stay apart: those with one can be rejected while the
        // others wait until the broker recovers.
        let is_alike = self.receipts.is_empty() != has_receipt;
        !travels_alone && !is_alone && is_alike && !self.batch.is_full()
    }

    #[inline]
    fn push(&mut self, kind: Kind, payload: &[u8], sender: u32, receipt: Option<Receipt>) -> usize {
        let before = self.batch.bytes();
        let mut cost = MESSAGE_BYTES;
        if let Some(receipt) = receipt {
            cost += RECEIPT_BYTES + receipt.reference.len();
            self.receipts.push((self.batch.len(), receipt));
        }
        self.batch.push(kind, payload, sender);
        cost += self.batch.bytes() - before;
        self.bytes += cost;
        cost
    }
}
