//! A channel on this node: its feed, and the messages that this node's clients publish on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::inbox::Parked;
use super::publication::{Outbox, Publication};
use super::{CHANNEL_BYTES, InFlight, Inbox, Keys, Skipped, lock};
use crate::budget::{Budget, Charge, Part};
use crate::channel::ChannelName;
use crate::feed::{Feed, FeedWriter, Retention};
use crate::message::PublisherId;
use crate::metrics::Metrics;

/// A channel with clients on this node.
#[derive(Debug)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// The batches that its clients here read.
    pub feed: Arc<Feed>,
    /// This node's identity as a publisher of the channel, for as long as this object lives.
    pub publisher_id: PublisherId,
    /// Messages of this node that the broker has acknowledged and not delivered back yet.
    pub in_flight: InFlight,
    /// Messages of this node that were never published.
    pub skipped: Skipped,
    pub(super) outbox: Mutex<Outbox>,
    /// Held while a page of its history is read: one at a time, so that other channels' pages come
    /// in between.
    pub paging: tokio::sync::Mutex<()>,
    /// Keys of its messages, if the node itself keeps the history.
    keys: Mutex<Keys>,
    /// Bytes of this channel in the inbox.
    pub(super) waiting: AtomicUsize,
    /// Its sessions that found no room there.
    pub(super) parked: Mutex<Parked>,
    /// The broker delivers to this channel.
    live: AtomicBool,
    became_live: Notify,
    _charge: Charge,
}

impl Channel {
    pub(super) fn new(
        name: &ChannelName,
        retention: Retention,
        epoch: u64,
        budget: &Arc<Budget>,
        metrics: &Metrics,
    ) -> (Self, FeedWriter) {
        let gauge = metrics.feed_bytes.clone();
        let (writer, feed) = FeedWriter::new(retention, epoch, budget.clone(), gauge);
        let channel = Self {
            name: name.clone(),
            feed,
            publisher_id: PublisherId::random(),
            in_flight: InFlight::default(),
            skipped: Skipped::default(),
            outbox: Mutex::default(),
            paging: tokio::sync::Mutex::default(),
            keys: Mutex::new(Keys::new(budget)),
            waiting: AtomicUsize::new(0),
            parked: Mutex::default(),
            live: AtomicBool::new(false),
            became_live: Notify::new(),
            _charge: budget.charge(Part::Feeds, CHANNEL_BYTES),
        };
        (channel, writer)
    }

    /// Begins to publish: the messages pushed until the [`Publication`] is dropped stay together
    /// and in order.
    pub(crate) fn publish<'a>(self: &'a Arc<Self>, inbox: &'a Inbox) -> Publication<'a> {
        Publication::new(self, inbox)
    }

    /// Whether this node has published anything on it.
    pub(crate) fn has_published(&self) -> bool {
        lock(&self.outbox).has_published()
    }

    /// The keys of its messages.
    pub(crate) fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// Drops the oldest messages that are held here, and their keys: see [`Feed::shorten`].
    pub(super) fn shorten(&self, bytes: usize) -> usize {
        let freed = self.feed.shorten(bytes);
        self.keys().forget_before(self.feed.begins().1);
        freed
    }

    /// The broker sets whether it delivers to this channel everything that any node publishes.
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Release);
        if live {
            self.became_live.notify_waiters();
        }
    }

    /// Waits until the broker delivers to this channel.
    pub(super) async fn live(&self) {
        let mut notified = std::pin::pin!(self.became_live.notified());
        loop {
            // Before the look, so that no change between look and wait is overlooked.
            notified.as_mut().enable();
            if self.live.load(Acquire) {
                return;
            }
            notified.as_mut().await;
            notified.set(self.became_live.notified());
        }
    }
}
