//! The hub: the channels of a node, and the inbox between sessions and the broker. Sessions publish
//! and subscribe through it. The broker empties the inbox, and learns which channels have clients
//! here.

mod channel;
mod history;
mod in_flight;
pub(crate) mod inbox;
mod keys;
mod membership;
mod memory;
mod pending_batch;
mod publication;
mod receipt;
mod skipped;
mod subscription;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub(crate) use self::channel::Channel;
pub(crate) use self::history::{HistoryPage, HistoryQuery, HistoryRequest};
pub(crate) use self::in_flight::InFlight;
pub(crate) use self::inbox::Inbox;
pub(crate) use self::keys::{KeyTaken, Keys};
pub(crate) use self::membership::Membership;
pub(crate) use self::pending_batch::PendingBatch;
pub(crate) use self::publication::Publication;
pub(crate) use self::receipt::{Answer, PublishError, Receipt};
pub(crate) use self::skipped::Skipped;
pub(crate) use self::subscription::{BrokerAway, ReplayPage, Subscription};
use crate::budget::Budget;
use crate::channel::ChannelName;
use crate::feed::{FeedWriter, Retention};
use crate::metrics::Metrics;

/// Bytes that a channel costs beside its feed: measured with one message each, in channels by the
/// hundred thousand.
const CHANNEL_BYTES: usize = 1024;

/// How long a channel stays subscribed after its last client left, so that reconnects and reloads
/// cost the broker nothing.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// The handle that everything in a node shares.
#[derive(Debug)]
pub struct Hub {
    channels: Mutex<Channels>,
    inbox: Inbox,
    changes: mpsc::UnboundedSender<Change>,
    history_requests: mpsc::UnboundedSender<HistoryRequest>,
    retention: Retention,
    /// Channels without clients keep their history.
    keep_idle: bool,
    /// `--max-channels`; `None` is no limit.
    max_channels: Option<usize>,
    budget: Arc<Budget>,
    /// When making room last did not help: see [`Hub::make_room`].
    futile: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// This node has as many channels as `--max-channels` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyChannels;

#[derive(Debug, Default)]
struct Channels {
    by_name: HashMap<ChannelName, Entry>,
    /// Channels without clients, by the time they are removed.
    idle: BTreeMap<Expiry, ChannelName>,
    /// Makes expiries unique.
    counter: u64,
}

/// When a channel without clients is removed.
type Expiry = (Instant, u64);

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
    members: usize,
    /// Members that receive messages.
    subscribers: usize,
    /// Until the broker gets it with [`Change::New`].
    writer: Option<FeedWriter>,
    expiry: Option<Expiry>,
}

impl Hub {
    /// A hub without channels, and the broker's part of it. `keep_idle`: channels without clients
    /// keep their history for the retention's time to live, because nothing else keeps it.
    pub(crate) fn new(
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

    /// Joins a channel to receive its messages. The first client creates it.
    ///
    /// # Errors
    /// If it would be one more than `--max-channels`.
    pub(crate) fn join_as_subscriber(
        self: &Arc<Self>,
        name: &ChannelName,
    ) -> Result<Membership, TooManyChannels> {
        self.join(name, true)
    }

    /// Joins a channel only to publish: the broker need not deliver there.
    ///
    /// # Errors
    /// If it would be one more than `--max-channels`.
    pub(crate) fn join_as_publisher(
        self: &Arc<Self>,
        name: &ChannelName,
    ) -> Result<Membership, TooManyChannels> {
        self.join(name, false)
    }

    fn join(
        self: &Arc<Self>,
        name: &ChannelName,
        subscribes: bool,
    ) -> Result<Membership, TooManyChannels> {
        let mut channels = lock(&self.channels);
        // 1. The channel, created for its first client.
        if !channels.by_name.contains_key(name) {
            self.create(&mut channels, name)?;
        }
        let Channels { by_name, idle, .. } = &mut *channels;
        let entry = by_name.get_mut(name).expect("it was there or is created");
        // 2. Its new member, who keeps it.
        entry.add_member(subscribes);
        if let Some(expiry) = entry.expiry.take() {
            idle.remove(&expiry);
        }
        // 3. The broker writes its feed from the first subscriber on. If nothing else keeps the
        //    history, it writes also for publishers.
        if (subscribes || self.keep_idle)
            && let Some(writer) = entry.writer.take()
        {
            self.tell_broker(Change::New(entry.channel.clone(), writer));
        }
        Ok(Membership {
            channel: entry.channel.clone(),
            hub: self.clone(),
            subscribes,
        })
    }

    fn create(&self, channels: &mut Channels, name: &ChannelName) -> Result<(), TooManyChannels> {
        let limit = self.max_channels.unwrap_or(usize::MAX);
        if channels.by_name.len() >= limit && !self.let_one_go(channels) {
            return Err(TooManyChannels);
        }
        // A history that only this node keeps begins with this object; else the broker knows it.
        let epoch = if self.keep_idle {
            rand::random_range(1..u64::MAX)
        } else {
            0
        };
        let (channel, writer) =
            Channel::new(name, self.retention, epoch, &self.budget, &self.metrics);
        self.metrics.channels.inc();
        let entry = Entry {
            channel: Arc::new(channel),
            members: 0,
            subscribers: 0,
            writer: Some(writer),
            expiry: None,
        };
        channels.by_name.insert(name.clone(), entry);
        Ok(())
    }

    /// The channel of this name, if it exists here.
    pub(crate) fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        let channels = lock(&self.channels);
        Some(channels.by_name.get(name)?.channel.clone())
    }

    /// Whether a client could join this channel now: it exists, or can be created.
    pub(crate) fn has_place_for(&self, name: &ChannelName) -> bool {
        let Some(limit) = self.max_channels else {
            return true;
        };
        let channels = lock(&self.channels);
        channels.by_name.len() < limit
            || !channels.idle.is_empty()
            || channels.by_name.contains_key(name)
    }

    /// All channels on which this node has published something.
    pub(crate) fn published(&self) -> Vec<Arc<Channel>> {
        let mut channels = self.every_channel();
        channels.retain(|channel| channel.has_published());
        channels
    }

    fn every_channel(&self) -> Vec<Arc<Channel>> {
        let channels = lock(&self.channels);
        let entries = channels.by_name.values();
        entries.map(|entry| entry.channel.clone()).collect()
    }

    /// How many clients of this node subscribe to a channel.
    pub(crate) fn subscribers(&self, name: &ChannelName) -> usize {
        let channels = lock(&self.channels);
        let entry = channels.by_name.get(name);
        entry.map_or(0, |entry| entry.subscribers)
    }

    /// Messages that a channel keeps.
    pub(crate) fn history(&self) -> usize {
        self.retention.messages
    }

    /// The memory budget of messages.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Messages between sessions and the broker.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Removes channels whose time without clients is over. Called about every second.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut channels = lock(&self.channels);
        while channels.next_expiry().is_some_and(|at| at <= now) {
            self.let_one_go(&mut channels);
        }
    }

    /// Removes the channel that expires first. Returns whether there was one.
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
}

impl Channels {
    fn next_expiry(&self) -> Option<Instant> {
        let ((at, _), _) = self.idle.first_key_value()?;
        Some(*at)
    }

    /// Removes a channel at this time, unless it gets a client before.
    fn expire(&mut self, name: &ChannelName, at: Instant) {
        let Some(entry) = self.by_name.get_mut(name) else {
            return;
        };
        self.counter += 1;
        let expiry = (at, self.counter);
        entry.expiry = Some(expiry);
        self.idle.insert(expiry, name.clone());
    }
}

impl Entry {
    fn add_member(&mut self, subscribes: bool) {
        self.members += 1;
        self.subscribers += usize::from(subscribes);
    }
}

/// The broker's own part of a hub. There is one.
#[derive(Debug)]
pub struct Intake {
    /// Channels that come and go, in order: at most two changes for each channel that a client named
    /// since the broker last looked.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// Requests to read from histories. A broker that keeps no history drops this.
    pub history_requests: mpsc::UnboundedReceiver<HistoryRequest>,
}

/// A channel came or went.
#[derive(Debug)]
pub enum Change {
    /// It has its first client. The broker writes its feed from now on.
    New(Arc<Channel>, FeedWriter),
    /// It has had no client for a while. Also sent without a [`Self::New`] before, if clients only
    /// published there.
    Gone(Arc<Channel>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
