//! The writing side of a feed. There is one writer for each feed, and it cannot be cloned. So its
//! owner alone appends, and the order in the feed is the order of its calls.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{Feed, Retention, Window};
use crate::budget::{Budget, Part};
use crate::message::{Batch, MessageId, Missed, Sequence};
use crate::metrics::Gauge;

/// Writes a feed. Deliberately not `Clone`.
#[derive(Debug)]
pub struct FeedWriter {
    feed: Arc<Feed>,
}

/// The fate of a batch that was offered to a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is in the feed.
    Appended,
    /// It had been there before.
    Duplicate,
    /// Something before it is missing, or it belongs to another epoch: it is not in the feed.
    Gap,
}

impl FeedWriter {
    /// An empty feed and its writer. `epoch` is that of its history, 0 if the broker will know it
    /// later. Its batches count in `budget`; `bytes_gauge` counts what the windows of all feeds of a
    /// node hold.
    pub(crate) fn new(
        retention: Retention,
        epoch: u64,
        budget: Arc<Budget>,
        bytes_gauge: Gauge,
    ) -> (Self, Arc<Feed>) {
        let feed = Arc::new(Feed::new(retention, epoch, budget, bytes_gauge));
        (Self { feed: feed.clone() }, feed)
    }

    /// The side that readers see.
    pub(crate) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Adds a batch at the next offsets; returns the id of its last message, if it has one. `last`
    /// is that message's sequence if this node published it.
    pub(crate) fn append(&mut self, batch: Batch, last: Option<Sequence>) -> Option<MessageId> {
        let id = self.add_next(batch, last);
        self.feed.wake();
        id
    }

    /// The same without waking anybody.
    pub(super) fn add_next(
        &mut self,
        mut batch: Batch,
        last: Option<Sequence>,
    ) -> Option<MessageId> {
        let window = self.feed.lock();
        (batch.epoch, batch.offset) = (window.epoch, window.next_offset);
        batch.span = batch.len() as u64;
        let id = batch.id(batch.len() - 1);
        self.add(window, batch, last);
        id
    }

    /// Adds a batch that no history has: it takes no offset.
    pub(crate) fn append_unnumbered(&mut self, mut batch: Batch) {
        let window = self.feed.lock();
        (batch.epoch, batch.offset) = (window.epoch, window.next_offset);
        self.push(window, batch, None);
    }

    /// Adds a batch whose epoch and offset are known, if it is the next.
    pub(crate) fn accept(
        &mut self,
        epoch: u64,
        mut batch: Batch,
        last: Option<Sequence>,
    ) -> Accepted {
        let mut window = self.feed.lock();
        (batch.epoch, batch.span) = (epoch, batch.len() as u64);
        if window.epoch == 0 && batch.offset == 1 {
            // The very first message of a channel: nothing can be missing before it.
            (window.epoch, window.next_offset) = (epoch, 1);
        }
        if window.epoch != epoch || batch.offset > window.next_offset {
            return Accepted::Gap;
        }
        if batch.offset < window.next_offset {
            drop(window);
            self.settle(last.unwrap_or_default());
            return Accepted::Duplicate;
        }
        self.push(window, batch, last);
        Accepted::Appended
    }

    /// Tells readers that messages are missing here.
    pub(crate) fn mark_gap(&mut self, missed: Missed) {
        let window = self.feed.lock();
        let mark = Batch::gap(window.epoch, window.next_offset, missed);
        self.push(window, mark, None);
    }

    /// Goes on at another place, because what lies between cannot be had: see [`Self::mark_gap`].
    pub(crate) fn jump(&mut self, epoch: u64, next_offset: u64) {
        let mut window = self.feed.lock();
        if window.epoch != epoch {
            window.history_from = 0;
            window.sealed = false;
        }
        if (window.epoch, window.next_offset) != (epoch, next_offset) {
            // Something was published, although not received here.
            window.appended = Instant::now();
        }
        (window.epoch, window.next_offset) = (epoch, next_offset);
    }

    /// A message that this node published will not be received, or was received long ago: readers
    /// that wait for it need not.
    pub(crate) fn settle(&mut self, sequence: Sequence) {
        if self.feed.lock().confirm(sequence) {
            self.feed.wake();
        }
    }

    fn push(&self, window: MutexGuard<'_, Window>, batch: Batch, last: Option<Sequence>) {
        self.add(window, batch, last);
        self.feed.wake();
    }

    fn add(&self, mut window: MutexGuard<'_, Window>, mut batch: Batch, last: Option<Sequence>) {
        let Feed {
            retention,
            budget,
            bytes_gauge,
            ..
        } = &*self.feed;
        batch.charge(budget, Part::Feeds);
        window.next_offset += batch.span;
        window.confirmed = window.confirmed.max(last.unwrap_or_default());
        window.appended = Instant::now();
        window.messages += batch.len();
        window.raw_bytes += batch.raw().len();
        window.bytes += batch.weight();
        window.unsettled += batch.weight();
        let before = window.bytes as i64 - batch.weight() as i64;
        window.batches.push_back(Arc::new(batch));
        window.trim(retention);
        bytes_gauge.add(window.bytes as i64 - before);
    }
}

#[cfg(test)]
impl FeedWriter {
    /// A feed of its own node, with more memory than it will need.
    pub(crate) fn for_test(retention: Retention) -> (Self, Arc<Feed>) {
        let metrics = crate::metrics::Metrics::new(&[], &[], &[]).expect("metrics");
        Self::new(
            retention,
            1,
            Budget::new(1 << 40, &metrics),
            metrics.feed_bytes.clone(),
        )
    }
}
