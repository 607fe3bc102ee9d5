//! The inbox: messages that sessions have published and the broker has not taken or acknowledged.
//! It owns the bound that slows publishers: a session that finds no room parks, so that its socket
//! is not read and TCP slows its client.

use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use tokio::sync::Notify;

use super::pending_batch::PendingBatch;
use super::{Channel, lock};
use crate::budget::{Budget, Part};
use crate::metrics::Metrics;

/// Messages that the inbox takes before sockets are no longer read. It may overshoot by one read of
/// each worker thread.
pub(crate) const INBOX_MESSAGES: usize = 64 * 1024;

/// Bytes that the inbox takes before sockets are no longer read: the messages that one node keeps
/// for its clients while Redis is slow or away. An eighth of the memory budget if that is less, and
/// one more message of each channel.
pub(crate) const INBOX_BYTES: usize = 16 * 1024 * 1024;

/// The bounded queue between sessions and the broker. Messages wait in their channels' outboxes;
/// the inbox lists those channels.
#[derive(Debug)]
pub struct Inbox {
    /// Channels with messages, each once.
    queue: Mutex<Vec<Arc<Channel>>>,
    ready: Notify,
    /// Messages that are not settled.
    messages: AtomicUsize,
    /// Bytes of these messages.
    bytes: AtomicUsize,
    /// Bytes at which it takes only the first message of a channel: [`INBOX_BYTES`], or less.
    limit: usize,
    /// Bytes at which it takes no message at all.
    crowded: usize,
    /// Channels with parked sessions, each once.
    parked: Mutex<Vec<Arc<Channel>>>,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// Sessions of one channel that found no room.
#[derive(Debug)]
pub(super) struct Parked {
    wakers: Vec<Waker>,
    /// How often they were woken, so that a session knows whether it is still on the list. Sessions
    /// begin with round 0, in which they are on no list.
    round: u64,
    /// The channel is on the inbox's list.
    listed: bool,
}

impl Default for Parked {
    fn default() -> Self {
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

    /// Adds a session's waker, unless it is on the list of this round.
    fn add(&mut self, waker: &Waker, round: &mut u64) {
        if *round != self.round {
            self.wakers.push(waker.clone());
            *round = self.round;
        }
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

    /// Takes all messages without waiting.
    #[cfg(test)]
    pub(crate) fn try_take(&self) -> Vec<PendingBatch> {
        Self::take_from(self.try_queued())
    }

    /// Waits for channels with messages, for [`Self::take_from`]. The inbox does not list them again
    /// until then, and further messages join the waiting ones. Cancellation-safe.
    pub async fn queued(&self) -> Vec<Arc<Channel>> {
        loop {
            let queued = self.try_queued();
            if !queued.is_empty() {
                return queued;
            }
            self.ready.notified().await;
        }
    }

    /// Channels with messages, without waiting.
    pub(crate) fn try_queued(&self) -> Vec<Arc<Channel>> {
        std::mem::take(&mut *lock(&self.queue))
    }

    /// Takes the messages of these channels.
    pub(crate) fn take_from(queued: Vec<Arc<Channel>>) -> Vec<PendingBatch> {
        let mut taken = Vec::with_capacity(queued.len());
        for channel in queued {
            let (drafts, mut first) = lock(&channel.outbox).take();
            for draft in drafts {
                let pending = PendingBatch::new(channel.clone(), first, draft);
                first = pending.last().next();
                taken.push(pending);
            }
        }
        taken
    }

    /// The broker has acknowledged or rejected this batch: there is room for as much again.
    pub(crate) fn settle(&self, pending: &PendingBatch) {
        let PendingBatch {
            channel,
            count,
            bytes,
            ..
        } = pending;
        let waiting = channel.waiting.fetch_sub(*bytes, Relaxed) - *bytes;
        self.messages.fetch_sub(*count, Relaxed);
        let before = self.bytes.fetch_sub(*bytes, Relaxed);
        self.budget.give_back(Part::Inbox, *bytes);
        self.metrics.inbox_depth.sub(*count as i64);
        // Channels without waiting messages parked at that bound, whatever the others hold.
        let is_below_crowded = before >= self.crowded && before - *bytes < self.crowded;
        if self.has_room() || is_below_crowded {
            self.wake_parked();
        } else if waiting == 0 {
            // The inbox is full for all channels but this one, whose first message it takes again.
            let wakers = lock(&channel.parked).take();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Wakes all parked sessions.
    pub(crate) fn wake_parked(&self) {
        let channels = std::mem::take(&mut *lock(&self.parked));
        for channel in channels {
            let mut parked = lock(&channel.parked);
            parked.listed = false;
            let wakers = parked.take();
            // Not under the lock: a woken session may take it at once.
            drop(parked);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether a session of this channel may read from its socket. If not, its task is woken when
    /// it may. `round` is the session's, begins as 0, and remembers that it is parked.
    #[inline]
    pub(crate) fn may_read(
        &self,
        channel: &Arc<Channel>,
        context: &Context<'_>,
        round: &mut u64,
    ) -> bool {
        self.has_room_for(channel) || self.park(channel, context.waker(), round)
    }

    /// Parks a session; returns whether it need not, because there is room after all.
    fn park(&self, channel: &Arc<Channel>, waker: &Waker, round: &mut u64) -> bool {
        let mut parked = lock(&channel.parked);
        parked.add(waker, round);
        if !std::mem::replace(&mut parked.listed, true) {
            lock(&self.parked).push(channel.clone());
        }
        drop(parked);
        if !self.budget.has_room() {
            self.budget.await_room();
        }
        // Room may have been made before the session was on the list: then nothing wakes it.
        self.has_room_for(channel)
    }

    /// Whether it takes messages of every channel.
    pub(crate) fn has_room(&self) -> bool {
        self.messages.load(Relaxed) < INBOX_MESSAGES
            && self.bytes.load(Relaxed) < self.limit
            && self.budget.has_room()
    }

    /// Whether it takes messages of this channel.
    #[inline]
    pub(crate) fn has_room_for(&self, channel: &Channel) -> bool {
        self.has_room_beside(channel, 0, 0)
    }

    /// Whether it takes a message of this channel beside so many that are about to be added.
    #[inline]
    pub(super) fn has_room_beside(&self, channel: &Channel, messages: usize, bytes: usize) -> bool {
        if !self.budget.has_room() {
            return false;
        }
        let held = self.bytes.load(Relaxed) + bytes;
        // The first message of a channel is taken even if the inbox is full, so that channels that
        // fill it do not keep the others out.
        if channel.waiting.load(Relaxed) + bytes == 0 {
            return held < self.crowded;
        }
        self.messages.load(Relaxed) + messages < INBOX_MESSAGES && held < self.limit
    }

    /// Counts new messages of a channel, and lists it if it is not on the list.
    pub(super) fn add(
        &self,
        channel: &Arc<Channel>,
        is_listed: bool,
        messages: usize,
        bytes: usize,
    ) {
        channel.waiting.fetch_add(bytes, Relaxed);
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.budget.take(Part::Inbox, bytes);
        self.metrics.inbox_depth.add(messages as i64);
        if !is_listed {
            lock(&self.queue).push(channel.clone());
            self.ready.notify_one();
        }
    }
}
