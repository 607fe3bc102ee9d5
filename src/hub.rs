//! The hub: the channels of a node, and the inbox between sessions and the broker. Sessions publish
//! and follow through it; the broker empties its inbox and learns from it which channels have
//! clients here.

mod history;
mod in_flight;
mod inbox;
mod keys;
mod memory;
mod pending_batch;
mod publication;
mod receipt;
mod skipped;
mod subscription;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

pub use self::history::{HistoryPage, HistoryQuery, HistoryRequest};
pub use self::in_flight::{Acknowledged, InFlight};
use self::inbox::Parked;
pub use self::inbox::{INBOX_BYTES, INBOX_MESSAGES, Inbox};
pub use self::keys::{KeyTaken, Keys};
pub use self::pending_batch::PendingBatch;
use self::publication::Outbox;
pub use self::publication::Publication;
pub use self::receipt::{Answer, Outcome, PublishError, Receipt};
pub use self::skipped::Skipped;
pub use self::subscription::{BrokerAway, ReplayPage, Subscription};
use crate::budget::{Budget, Charge, Part};
use crate::channel::ChannelName;
use crate::feed::{Feed, FeedWriter, Retention};
use crate::message::PublisherId;
use crate::metrics::Metrics;

/// Bytes that a channel costs beside its feed: measured with one message each, in channels by the
/// hundred thousand.
const CHANNEL_BYTES: usize = 1024;

/// How long a channel stays subscribed after its last client left: reconnects and reloads cost the
/// broker nothing.
pub const LINGER: Duration = Duration::from_secs(10);

/// The cheap handle everything in a node shares.
#[derive(Debug)]
pub struct Hub {
    channels: Mutex<Channels>,
    inbox: Inbox,
    changes: mpsc::UnboundedSender<Change>,
    history_requests: mpsc::UnboundedSender<HistoryRequest>,
    retention: Retention,
    keep_idle: bool,
    /// `--max-channels`; `None` is no limit.
    max_channels: Option<usize>,
    budget: Arc<Budget>,
    /// When making room last did not help: see [`Hub::make_room`].
    futile: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// There are as many channels on this node as `--max-channels` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyChannels;

#[derive(Debug, Default)]
struct Channels {
    by_name: HashMap<ChannelName, Entry>,
    /// Channels without clients, by the time they go.
    idle: BTreeMap<Due, ChannelName>,
    /// Makes dues unique.
    counter: u64,
}

/// When a channel without clients goes.
type Due = (Instant, u64);

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
    members: usize,
    /// Those of them that hear.
    subscribers: usize,
    /// Until the broker gets it with [`Change::New`].
    writer: Option<FeedWriter>,
    due: Option<Due>,
}

/// A channel with its feed and what this node's clients have said on it and the broker has not
/// taken yet.
#[derive(Debug)]
pub struct Channel {
    /// What it is called.
    pub name: ChannelName,
    /// What its clients here read.
    pub feed: Arc<Feed>,
    /// This node's identity as a publisher of the channel, for as long as this object lives.
    pub publisher_id: PublisherId,
    /// Its messages that the broker has acknowledged and not delivered back yet.
    pub in_flight: InFlight,
    /// Its messages that were never published.
    pub skipped: Skipped,
    outbox: Mutex<Outbox>,
    /// Held while a page of its history is read: one at a time, so that other channels' pages come
    /// in between.
    pub paging: tokio::sync::Mutex<()>,
    /// Those of its messages, where the node itself keeps its history.
    keys: Mutex<Keys>,
    /// Bytes of this channel in the inbox.
    waiting: AtomicUsize,
    /// Its sessions that found no room there.
    parked: Mutex<Parked>,
    live: AtomicBool,
    became_live: Notify,
    _charge: Charge,
}

impl Hub {
    /// A hub without channels. `keep_idle`: whether channels without clients keep their history
    /// here for the retention's time to live, as they must where nothing else keeps it.
    pub fn new(
        retention: Retention,
        keep_idle: bool,
        max_channels: Option<usize>,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> (Self, Intake) {
        let inbox = Inbox::new(budget.clone(), metrics.clone());
        let (changes, changed) = mpsc::unbounded_channel();
        let (history_requests, requested) = mpsc::unbounded_channel();
        let hub = Self {
            channels: Mutex::default(),
            inbox,
            changes,
            history_requests,
            retention,
            keep_idle,
            max_channels,
            budget,
            futile: Mutex::default(),
            metrics,
        };
        let intake = Intake {
            changes: changed,
            history_requests: requested,
        };
        (hub, intake)
    }

    /// Joins a channel to hear it; it comes to be if nobody is there yet.
    ///
    /// # Errors
    /// If it would be one more than `--max-channels`.
    pub fn join_as_subscriber(
        self: &Arc<Self>,
        name: &ChannelName,
    ) -> Result<Membership, TooManyChannels> {
        self.enter(name, true)
    }

    /// Joins a channel only to say something there: the broker need not bring what others say.
    ///
    /// # Errors
    /// If it would be one more than `--max-channels`.
    pub fn join_as_publisher(
        self: &Arc<Self>,
        name: &ChannelName,
    ) -> Result<Membership, TooManyChannels> {
        self.enter(name, false)
    }

    fn enter(
        self: &Arc<Self>,
        name: &ChannelName,
        subscribes: bool,
    ) -> Result<Membership, TooManyChannels> {
        let mut channels = lock(&self.channels);
        if !channels.by_name.contains_key(name) {
            if self
                .max_channels
                .is_some_and(|limit| channels.by_name.len() >= limit)
                && !self.let_one_go(&mut channels)
            {
                return Err(TooManyChannels);
            }
            // A history that nobody else keeps begins with this object.
            let epoch = if self.keep_idle {
                rand::random_range(1..u64::MAX)
            } else {
                0
            };
            let (channel, writer) =
                Channel::new(name, self.retention, epoch, &self.budget, &self.metrics);
            self.metrics.channels.inc();
            channels.by_name.insert(
                name.clone(),
                Entry {
                    channel: Arc::new(channel),
                    members: 0,
                    subscribers: 0,
                    writer: Some(writer),
                    due: None,
                },
            );
        }
        let Channels { by_name, idle, .. } = &mut *channels;
        let entry = &mut by_name
            .get_mut(name)
            .expect("it was there or has just been inserted");
        entry.members += 1;
        entry.subscribers += usize::from(subscribes);
        // Where nobody else keeps the history, the broker writes what is published even if no client
        // subscribes.
        if (subscribes || self.keep_idle)
            && let Some(writer) = entry.writer.take()
        {
            self.tell_broker(Change::New(entry.channel.clone(), writer));
        }
        if let Some(due) = entry.due.take() {
            idle.remove(&due);
        }
        Ok(Membership {
            channel: entry.channel.clone(),
            hub: self.clone(),
            subscribes,
        })
    }

    /// The channel of this name if it exists here.
    pub fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        lock(&self.channels)
            .by_name
            .get(name)
            .map(|entry| entry.channel.clone())
    }

    /// Whether a client could enter this channel now: it exists, or one more may come to be.
    pub fn has_place_for(&self, name: &ChannelName) -> bool {
        let Some(limit) = self.max_channels else {
            return true;
        };
        let channels = lock(&self.channels);
        channels.by_name.len() < limit
            || !channels.idle.is_empty()
            || channels.by_name.contains_key(name)
    }

    /// All channels on which this node has published something.
    pub fn published(&self) -> Vec<Arc<Channel>> {
        let mut channels: Vec<Arc<Channel>> = lock(&self.channels)
            .by_name
            .values()
            .map(|entry| entry.channel.clone())
            .collect();
        channels.retain(|channel| channel.has_published());
        channels
    }

    /// How many hear a channel on this node.
    pub fn subscribers(&self, name: &ChannelName) -> usize {
        lock(&self.channels)
            .by_name
            .get(name)
            .map_or(0, |entry| entry.subscribers)
    }

    /// Messages that a channel keeps.
    pub fn history(&self) -> usize {
        self.retention.messages
    }

    /// The memory that messages take.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What sessions have said and the broker has not taken.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Lets channels go whose time without clients is over. Called about every second.
    pub fn sweep(&self, now: Instant) {
        let mut channels = lock(&self.channels);
        while channels
            .idle
            .first_key_value()
            .is_some_and(|((due, _), _)| *due <= now)
        {
            self.let_one_go(&mut channels);
        }
    }

    /// Lets the channel go that would go next; returns whether there was one.
    fn let_one_go(&self, channels: &mut Channels) -> bool {
        let Some((_, name)) = channels.idle.pop_first() else {
            return false;
        };
        if let Some(entry) = channels.by_name.remove(&name) {
            self.metrics.channels.dec();
            self.tell_broker(Change::Gone(entry.channel));
        }
        true
    }

    fn tell_broker(&self, change: Change) {
        // The broker ends last. In tests there may be none.
        let _ = self.changes.send(change);
    }

    fn left(&self, channel: &Channel, subscribed: bool) {
        let mut channels = lock(&self.channels);
        let Channels {
            by_name,
            idle,
            counter,
        } = &mut *channels;
        let Some(entry) = by_name.get_mut(&channel.name) else {
            return;
        };
        entry.members -= 1;
        entry.subscribers -= usize::from(subscribed);
        if entry.members > 0 {
            return;
        }
        let stay = match channel.feed.idle() {
            Some(silent) if self.keep_idle => self.retention.ttl.saturating_sub(silent).max(LINGER),
            _ => LINGER,
        };
        *counter += 1;
        let due = (Instant::now() + stay, *counter);
        entry.due = Some(due);
        idle.insert(due, channel.name.clone());
    }
}

/// Being one of a channel's clients; ends when dropped.
#[derive(Debug)]
pub struct Membership {
    channel: Arc<Channel>,
    hub: Arc<Hub>,
    subscribes: bool,
}

impl Membership {
    /// Another one of the same channel.
    pub fn again(&self) -> Self {
        let mut channels = lock(&self.hub.channels);
        if let Some(entry) = channels.by_name.get_mut(&self.channel.name) {
            entry.members += 1;
            entry.subscribers += usize::from(self.subscribes);
        }
        Self {
            channel: self.channel.clone(),
            hub: self.hub.clone(),
            subscribes: self.subscribes,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.left(&self.channel, self.subscribes);
    }
}

impl Channel {
    fn new(
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
            paging: tokio::sync::Mutex::default(),
            keys: Mutex::new(Keys::new(budget)),
            waiting: AtomicUsize::new(0),
            parked: Mutex::default(),
            _charge: budget.charge(Part::Feeds, CHANNEL_BYTES),
            publisher_id: PublisherId::random(),
            in_flight: InFlight::default(),
            skipped: Skipped::default(),
            outbox: Mutex::default(),
            live: AtomicBool::new(false),
            became_live: Notify::new(),
        };
        (channel, writer)
    }

    /// Begins to say something: the messages pushed until the [`Publication`] is dropped stay
    /// together and in order.
    pub fn publish<'a>(self: &'a Arc<Self>, inbox: &'a Inbox) -> Publication<'a> {
        Publication::new(self, inbox)
    }

    /// Whether this node has published anything on it.
    pub fn has_published(&self) -> bool {
        lock(&self.outbox).has_published()
    }

    /// The keys of its messages.
    pub fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// Gives up the oldest messages that are held here, and their keys: see [`Feed::shorten`].
    fn shorten(&self, upto: usize) -> usize {
        let freed = self.feed.shorten(upto);
        self.keys().forget_before(self.feed.begins().1);
        freed
    }

    /// The broker tells whether what is said anywhere on this channel reaches this node.
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Release);
        if live {
            self.became_live.notify_waiters();
        }
    }

    async fn live(&self) {
        let mut notified = std::pin::pin!(self.became_live.notified());
        loop {
            notified.as_mut().enable();
            if self.live.load(Acquire) {
                return;
            }
            notified.as_mut().await;
            notified.set(self.became_live.notified());
        }
    }
}

/// What only the broker gets of a hub. There is one.
#[derive(Debug)]
pub struct Intake {
    /// Channels that come and go, in order; at most two changes for each channel a client ever named
    /// since the broker last looked.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// Requests to read from histories. A broker that keeps no history drops this.
    pub history_requests: mpsc::UnboundedReceiver<HistoryRequest>,
}

/// A channel came or went.
#[derive(Debug)]
pub enum Change {
    /// Its first client is here. The broker writes its feed from now on.
    New(Arc<Channel>, FeedWriter),
    /// Nobody has been here for a while. Also of a channel of which there was no [`Self::New`],
    /// because clients only published there.
    Gone(Arc<Channel>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
