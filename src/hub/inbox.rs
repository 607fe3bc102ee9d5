//! The inbox: what sessions have said and the broker has not taken. It owns the bound that slows
//! writers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tracing::Span;

use super::receipt::{PublishError, Receipt};
use super::{Channel, lock};
use crate::budget::{Budget, Part};
use crate::message::{BatchBuilder, Kind, MessageId, Sequence};
use crate::metrics::Metrics;
use crate::telemetry;

/// Messages the inbox takes before sockets are no longer read. It may overshoot by one read of each
/// worker thread.
pub const INBOX_MESSAGES: usize = 64 * 1024;

/// Bytes the inbox takes before sockets are no longer read: what one node keeps of its clients'
/// messages while Redis is slow or away, or an eighth of the memory budget if that is less; and one
/// message more of each channel.
pub const INBOX_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that a message costs in the inbox beside its frame.
const MESSAGE_BYTES: usize = 16;

/// Bytes that a receipt costs beside what it is called, until it is answered.
const RECEIPT_BYTES: usize = 96;

/// Bytes that a batch costs beside its messages.
const DRAFT_BYTES: usize = 256;

/// One session saying what it has just read, under one lock and with one wake of the broker.
pub struct Publication<'a> {
    channel: &'a Arc<Channel>,
    inbox: &'a Inbox,
    outbox: MutexGuard<'a, Outbox>,
    /// Of the next message.
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
    pub fn continuing(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }

    /// Adds a message; returns its number, to wait for its coming back. `sender` is the connection
    /// that does not want to hear it back; 0 is none.
    pub fn push(&mut self, kind: Kind, payload: &[u8], sender: u32) -> Sequence {
        self.push_with(kind, payload, sender, None, None)
    }

    /// Adds a message with a key, under which it is kept once, and a receipt that is answered when
    /// the broker holds it.
    pub fn push_with(
        &mut self,
        kind: Kind,
        payload: &[u8],
        sender: u32,
        key: Option<String>,
        receipt: Option<Receipt>,
    ) -> Sequence {
        let traceparent = self.traceparent.take();
        let last = self.outbox.drafts.back();
        let alone = key.is_some() || traceparent.is_some();
        if !last.is_some_and(|draft| draft.takes(alone, receipt.is_some())) {
            let texts =
                key.as_ref().map_or(0, String::len) + traceparent.as_ref().map_or(0, String::len);
            let bytes = DRAFT_BYTES + texts;
            self.bytes += bytes;
            self.outbox.drafts.push_back(Draft {
                key,
                traceparent,
                bytes,
                ..Draft::default()
            });
        }
        if let Some(Draft {
            batch,
            receipts,
            bytes,
            ..
        }) = self.outbox.drafts.back_mut()
        {
            let before = batch.bytes();
            let asked = receipt
                .as_ref()
                .map_or(0, |receipt| RECEIPT_BYTES + receipt.reference.len());
            receipts.extend(receipt.map(|receipt| (batch.len(), receipt)));
            batch.push(kind, payload, sender);
            let more = MESSAGE_BYTES + batch.bytes() - before + asked;
            *bytes += more;
            self.bytes += more;
        }
        self.messages += 1;
        self.outbox.newest = self.outbox.newest.next();
        self.outbox.newest
    }

    /// Messages pushed so far.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Whether the inbox takes another message of this channel.
    pub fn has_room(&self) -> bool {
        self.inbox
            .has_room_beside(self.channel, self.messages, self.bytes)
    }
}

impl Drop for Publication<'_> {
    fn drop(&mut self) {
        if self.messages > 0 {
            let first = !std::mem::replace(&mut self.outbox.queued, true);
            self.channel.waiting.fetch_add(self.bytes, Relaxed);
            self.inbox
                .add(first.then_some(self.channel), self.messages, self.bytes);
        }
    }
}

/// What a channel's clients here have said and the broker has not taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    drafts: VecDeque<Draft>,
    /// The newest message published here.
    newest: Sequence,
    queued: bool,
}

impl Outbox {
    pub(super) fn has_published(&self) -> bool {
        self.newest > Sequence::default()
    }
}

/// A batch that still grows.
#[derive(Debug, Default)]
struct Draft {
    batch: BatchBuilder,
    key: Option<String>,
    traceparent: Option<String>,
    receipts: Vec<(usize, Receipt)>,
    /// What it takes in the inbox: its frames, its key, its trace and what its receipts say.
    bytes: usize,
}

impl Draft {
    /// Whether another message joins it. One with a key travels alone, because the broker keeps or
    /// drops whole batches, and so does one with a trace of its own; who wants a receipt can be
    /// refused, while others wait until the broker is well again.
    fn takes(&self, alone: bool, has_receipt: bool) -> bool {
        !(alone || self.key.is_some() || self.traceparent.is_some())
            && self.receipts.is_empty() != has_receipt
            && !self.batch.is_full()
    }
}

/// Messages of one channel, taken from the inbox together.
#[derive(Debug)]
pub struct PendingBatch {
    /// Where they were said.
    pub channel: Arc<Channel>,
    /// The batch's first message among those of its channel's [`Channel::publisher_id`].
    pub first: Sequence,
    /// How many messages there are.
    pub count: usize,
    /// What they take in the inbox, to be settled.
    pub bytes: usize,
    /// The messages, framed.
    pub batch: BatchBuilder,
    /// What tells repetitions of its one message.
    pub key: Option<String>,
    /// The trace that its one message continues.
    traceparent: Option<String>,
    /// From [`Self::trace`] until it is dropped.
    span: Span,
    /// Which messages, counted from 0, want to be answered for.
    receipts: Vec<(usize, Receipt)>,
}

impl PendingBatch {
    /// The batch's last message.
    pub fn last(&self) -> Sequence {
        self.first.last_of(self.count)
    }

    /// Whether somebody waits for what becomes of it.
    pub fn has_receipts(&self) -> bool {
        !self.receipts.is_empty()
    }

    /// From now on it is handed over to the broker that traces call `system`; returns the context
    /// to send along, empty if this is not traced.
    pub fn trace(&mut self, system: &str) -> String {
        let (channel, parent) = (self.channel.name.as_str(), self.traceparent.as_deref());
        self.span = telemetry::publish_span(system, channel, self.count, parent);
        telemetry::traceparent(&self.span)
    }

    /// The broker holds it. `last` is what its last message is called, if it can be found again.
    pub fn acknowledge(&mut self, last: Option<MessageId>) {
        let count = self.count;
        for (index, receipt) in self.receipts.drain(..) {
            let id = last.map(|id| MessageId {
                offset: id.offset - (count - 1 - index) as u64,
                ..id
            });
            receipt.answer(Ok(id));
        }
    }

    /// The broker will never hold it.
    pub fn reject(&mut self, why: &PublishError) {
        telemetry::failed(&self.span, &why.to_string());
        self.receipts
            .drain(..)
            .for_each(|(_, receipt)| receipt.answer(Err(why.clone())));
    }
}

/// The bounded queue between sessions and the broker. Messages wait on their channels; this lists
/// those channels.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Vec<Arc<Channel>>>,
    ready: Notify,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// [`INBOX_BYTES`], or less.
    limit: usize,
    /// Bytes from which on it takes nothing of any channel.
    crowded: usize,
    /// Channels with sessions that found no room, each once.
    parked: Mutex<Vec<Arc<Channel>>>,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// Sessions of one channel that found no room.
#[derive(Debug)]
pub(super) struct Parked {
    wakers: Vec<Waker>,
    /// Counts the times that they were woken, so that a session knows whether it is still on the
    /// list.
    round: u64,
    /// The channel is on the inbox's list.
    listed: bool,
}

impl Default for Parked {
    fn default() -> Self {
        // Sessions begin with round 0, in which they are on no list.
        Self {
            wakers: Vec::new(),
            round: 1,
            listed: false,
        }
    }
}

impl Parked {
    fn take(&mut self) -> Vec<Waker> {
        self.round += 1;
        std::mem::take(&mut self.wakers)
    }
}

impl Inbox {
    pub(super) fn new(budget: Arc<Budget>, metrics: Arc<Metrics>) -> Self {
        Self {
            limit: INBOX_BYTES.min(budget.limit() / 8),
            crowded: budget.limit() / 4,
            queue: Mutex::default(),
            ready: Notify::new(),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            parked: Mutex::default(),
            budget,
            metrics,
        }
    }

    /// Waits until something was said, then takes all of it; what comes meanwhile is the next
    /// taking. Cancellation-safe.
    pub async fn take(&self) -> Vec<PendingBatch> {
        Self::take_from(self.queued().await)
    }

    /// Takes what there is.
    pub fn try_take(&self) -> Vec<PendingBatch> {
        Self::take_from(self.try_queued())
    }

    /// Waits until something was said; returns the channels on which it was, for
    /// [`Self::take_from`]. They are not named again until then, and what is said meanwhile joins
    /// the rest. Cancellation-safe.
    pub async fn queued(&self) -> Vec<Arc<Channel>> {
        loop {
            let queued = self.try_queued();
            if !queued.is_empty() {
                return queued;
            }
            self.ready.notified().await;
        }
    }

    /// The same without waiting.
    pub fn try_queued(&self) -> Vec<Arc<Channel>> {
        std::mem::take(&mut *lock(&self.queue))
    }

    /// Takes what was said on these channels.
    pub fn take_from(queued: Vec<Arc<Channel>>) -> Vec<PendingBatch> {
        let mut taken = Vec::with_capacity(queued.len());
        for channel in queued {
            let mut outbox = lock(&channel.outbox);
            outbox.queued = false;
            let drafts = std::mem::take(&mut outbox.drafts);
            let messages = drafts.iter().map(|draft| draft.batch.len()).sum::<usize>();
            let mut first = Sequence(outbox.newest.0 + 1 - messages as u64);
            drop(outbox);
            for Draft {
                batch,
                key,
                traceparent,
                receipts,
                bytes,
            } in drafts
            {
                let (channel, count, span) = (channel.clone(), batch.len(), Span::none());
                taken.push(PendingBatch {
                    channel,
                    first,
                    count,
                    bytes,
                    batch,
                    key,
                    traceparent,
                    span,
                    receipts,
                });
                first = first.last_of(count).next();
            }
        }
        taken
    }

    /// The broker holds these messages, or never will: there is room for as many.
    pub fn settle(&self, pending: &PendingBatch) {
        let PendingBatch {
            channel,
            count,
            bytes,
            ..
        } = pending;
        let waiting = channel.waiting.fetch_sub(*bytes, Relaxed) - *bytes;
        self.messages.fetch_sub(*count, Relaxed);
        let held = self.bytes.fetch_sub(*bytes, Relaxed);
        // The bound of channels of which nothing waits.
        let crossed = held >= self.crowded && held - *bytes < self.crowded;
        self.budget.give_back(Part::Inbox, *bytes);
        self.metrics.inbox_depth.sub(*count as i64);
        if self.has_room() || crossed {
            self.wake_parked();
        } else if waiting == 0 {
            // Others wait for the inbox, these for their channel.
            let wakers = lock(&channel.parked).take();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Wakes all sessions that found no room.
    pub fn wake_parked(&self) {
        let channels = std::mem::take(&mut *lock(&self.parked));
        for channel in channels {
            let mut parked = lock(&channel.parked);
            parked.listed = false;
            let wakers = parked.take();
            drop(parked);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether a session of this channel may read from its socket. If not, its task is woken when
    /// it may; `round` remembers that it waits already and begins as 0.
    pub fn may_read(&self, channel: &Arc<Channel>, context: &Context<'_>, round: &mut u64) -> bool {
        if self.has_room_for(channel) {
            return true;
        }
        let mut parked = lock(&channel.parked);
        if *round != parked.round {
            parked.wakers.push(context.waker().clone());
            *round = parked.round;
        }
        if !std::mem::replace(&mut parked.listed, true) {
            lock(&self.parked).push(channel.clone());
        }
        drop(parked);
        if !self.budget.has_room() {
            self.budget.await_room();
        }
        // Room may have come between the two looks; whoever made it has woken everybody who was on
        // the list then.
        self.has_room_for(channel)
    }

    /// Whether it takes messages of every channel.
    pub fn has_room(&self) -> bool {
        self.messages.load(Relaxed) < INBOX_MESSAGES
            && self.bytes.load(Relaxed) < self.limit
            && self.budget.has_room()
    }

    /// Whether it takes messages of this channel.
    pub fn has_room_for(&self, channel: &Channel) -> bool {
        self.has_room_beside(channel, 0, 0)
    }

    /// The same while so many messages of so many bytes are about to be added. A channel of which
    /// nothing waits may always add a message, up to a quarter of the memory budget: others that
    /// have filled the inbox do not keep it out.
    fn has_room_beside(&self, channel: &Channel, messages: usize, bytes: usize) -> bool {
        if !self.budget.has_room() {
            return false;
        }
        let held = self.bytes.load(Relaxed) + bytes;
        if channel.waiting.load(Relaxed) + bytes == 0 {
            return held < self.crowded;
        }
        self.messages.load(Relaxed) + messages < INBOX_MESSAGES && held < self.limit
    }

    fn add(&self, first: Option<&Arc<Channel>>, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.budget.take(Part::Inbox, bytes);
        self.metrics.inbox_depth.add(messages as i64);
        if let Some(channel) = first {
            lock(&self.queue).push(channel.clone());
            self.ready.notify_one();
        }
    }
}
