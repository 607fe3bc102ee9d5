//! From Redis to the feeds: the one ordered reader. It owns what has been heard from which node, so
//! that a batch that was published twice is heard once and what never came is counted; and it holds
//! back what arrives while [`super::catch_up`] reads what came before.

mod doubt;
mod state;
mod take;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use self::state::{Backlog, Placed, State};
use super::super::Link;
use super::super::envelope::{Envelope, Payload};
use super::history::Newest;
use super::warnings::{Trouble, Warnings};
use super::{Backoff, Names};
use crate::channel::ChannelName;
use crate::hub::Channel;
use crate::message::Missed;
use crate::metrics::LossCause;

/// More messages than a node can have missed: what tells of more was not counted.
const MOST_MISSED: u64 = 10_000_000_000;

#[derive(Debug)]
pub(super) struct Receivers {
    link: Link,
    names: Names,
    warnings: Arc<Warnings>,
    /// How long Redis keeps a history after its last message; zero if it keeps none. With history
    /// offsets tell what is missing, without it only the numbers of nodes do.
    kept_for: Duration,
    states: Mutex<States>,
    /// Counts the times that any channel began to hold back: also one that has been forgotten in
    /// between.
    rounds: AtomicU64,
    requests: UnboundedSender<Request>,
}

/// Channels that are subscribed to or will be. Made and dropped with a channel's object, whatever
/// becomes of its subscription meanwhile: one that comes again begins with what is there then, and
/// has missed nothing.
type States = HashMap<ChannelName, (Arc<Channel>, State)>;

/// A channel has to catch up. At most one for each time that it began to hold back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) channel: Arc<Channel>,
    pub(super) round: u64,
    /// Until it is tried again, if reading fails.
    pub(super) backoff: Backoff,
    /// It began to hold back at a batch that did not fit, over a subscription that has brought
    /// everything up to that.
    pub(super) unbroken: bool,
}

/// Whether a channel has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// It hears everything as it comes.
    Live,
    /// Something is still missing.
    Again,
    /// A newer request has taken over.
    Superseded,
}

impl Receivers {
    pub(super) fn new(
        link: Link,
        names: Names,
        warnings: Arc<Warnings>,
        kept_for: Duration,
        requests: UnboundedSender<Request>,
    ) -> Self {
        Self {
            link,
            names,
            warnings,
            kept_for,
            states: Mutex::default(),
            rounds: AtomicU64::new(0),
            requests,
        }
    }

    fn has_history(&self) -> bool {
        !self.kept_for.is_zero()
    }

    /// Takes a payload that Redis delivered.
    pub(super) fn deliver(self: &Arc<Self>, pubsub: &str, payload: Bytes) {
        let Some(name) = self.names.channel(pubsub) else {
            return;
        };
        let mut states = self.lock();
        // Lately unsubscribed, and this was on its way.
        let Some((channel, state)) = states.get_mut(&name) else {
            return;
        };
        match &mut state.backlog {
            Some(backlog) => backlog.push(payload, self.link.hub.budget()),
            None => {
                let missing = self.take(channel, state, payload, true).err();
                if missing.is_some() || state.rewound {
                    self.doubt(channel, state, missing);
                }
            }
        }
        drop(states);
        self.link.hub.make_room();
    }

    /// A channel has its first client. Whatever had its name before has gone.
    pub(super) fn add(&self, channel: &Arc<Channel>) {
        let state = (channel.clone(), State::default());
        self.lock().insert(channel.name.clone(), state);
    }

    /// Holds back what arrives on a channel from now on; returns the round's number, 0 if the
    /// channel is there no more.
    pub(super) fn hold(&self, channel: &Arc<Channel>) -> u64 {
        match self.lock().get_mut(&channel.name) {
            Some((held, state)) if Arc::ptr_eq(held, channel) => state.hold(&self.rounds),
            _ => 0,
        }
    }

    /// Redis delivers a channel from now on: with history it catches up, without it goes live with
    /// what was held back.
    pub(super) fn subscribed(self: &Arc<Self>, channel: &Arc<Channel>, round: u64) {
        let request = Request {
            channel: channel.clone(),
            round,
            backoff: Backoff::default(),
            unbroken: false,
        };
        if self.has_history() {
            self.request(request);
        } else {
            self.release(&request, &Newest::default());
        }
    }

    /// Redis does not deliver a channel for now, nor is what it misses read: where that failed, it
    /// would keep others waiting.
    pub(super) fn unsubscribed(&self, channel: &Arc<Channel>) {
        channel.set_live(false);
        self.hold(channel);
    }

    /// Has a channel catch up.
    pub(super) fn request(&self, request: Request) {
        // The receiver ends with the broker: then nobody needs it any more.
        let _ = self.requests.send(request);
    }

    /// Takes note of where the history ends. Returns whether nothing was missed: because nobody has
    /// waited for anything here, or nothing was said.
    pub(super) fn begin(&self, request: &Request, newest: &Newest) -> bool {
        let mut states = self.lock();
        let Some(state) = request.current(&mut states) else {
            return false;
        };
        let (epoch, next_offset) = (newest.id.epoch, newest.id.offset + 1);
        let feed = &request.channel.feed;
        if request.unbroken && !state.rewound {
            // The backlog tells: see [`Self::release`].
            return true;
        }
        if feed.expects() == (epoch, next_offset) && !state.knows_offsets() {
            return true;
        }
        if state.was_live || !feed.is_empty() {
            return false;
        }
        state.known_from = next_offset;
        feed.jump(epoch, next_offset);
        true
    }

    /// Whether any batch of this channel has been received here.
    pub(super) fn has_received(&self, request: &Request) -> bool {
        request
            .current(&mut self.lock())
            .is_some_and(|state| state.knows_offsets())
    }

    /// Takes a batch from the history; what lies between the feed's end and it is lost. Returns how
    /// many messages the feed has got by that. `late`: whether somebody has been waiting for it.
    pub(super) fn recover(&self, request: &Request, batch: Envelope, late: bool) -> u64 {
        let mut states = self.lock();
        let Some(state) = request.current(&mut states) else {
            return 0;
        };
        let channel = &request.channel;
        let (epoch, expected) = channel.feed.expects();
        if batch.offset > expected || (epoch == 0 && batch.offset > 1) {
            self.jump(channel, state, batch.epoch, batch.offset);
        }
        let from = channel.feed.expects().1;
        if !self.take_next(channel, state, batch, late) {
            tracing::error!(
                channel = channel.name.as_str(),
                offset = from,
                "a batch does not fit its own place"
            );
        }
        drop(states);
        self.link.hub.make_room();
        channel.feed.expects().1 - from
    }

    /// What lies before this place cannot be had.
    pub(super) fn lose(&self, request: &Request, epoch: u64, next_offset: u64) {
        if let Some(state) = request.current(&mut self.lock()) {
            self.jump(&request.channel, state, epoch, next_offset);
        }
    }

    /// Takes note of a batch that lies before the feed's end in the history: whether it was heard
    /// at all. If not, another server has given out the same offsets.
    pub(super) fn compare(&self, request: &Request, payload: Bytes) {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return;
        };
        if batch.epoch == request.channel.feed.expects().0
            && let Some(state) = request.current(&mut self.lock())
        {
            state.repeated(Placed::of(&batch));
        }
    }

    /// Whether this history has been found to have gone on from before its end.
    pub(super) fn is_rewound(&self, request: &Request) -> bool {
        request
            .current(&mut self.lock())
            .is_some_and(|state| state.rewound)
    }

    /// It has been ended for that.
    pub(super) fn abandoned(&self, request: &Request) {
        if let Some(state) = request.current(&mut self.lock()) {
            state.rewound = false;
        }
    }

    fn jump(&self, channel: &Channel, state: &mut State, epoch: u64, next_offset: u64) {
        let (before, expected) = channel.feed.expects();
        state.known_from = next_offset;
        if before != epoch {
            state.left = before;
            state.rewound = false;
        }
        channel.feed.jump(epoch, next_offset);
        if before == epoch || (before == 0 && state.was_live) {
            self.missed(channel, next_offset.saturating_sub(expected));
        } else if before != 0
            && channel
                .feed
                .idle()
                .is_none_or(|silent| silent < self.kept_for)
        {
            // Nobody knows how much of the old history was never heard here; nodes' own numbers may
            // tell, see `take_next`. One that has come of age was heard to its end.
            channel.feed.mark_gap(Missed::Unknown);
        }
    }

    /// Messages are missing here that cannot be had.
    fn missed(&self, channel: &Channel, messages: u64) {
        if messages > MOST_MISSED {
            // Somebody has changed the numbers: nobody knows how many.
            self.link.metrics.lost(LossCause::Broker, 1);
            channel.feed.mark_gap(Missed::Unknown);
        } else if messages > 0 {
            self.link.metrics.lost(LossCause::Broker, messages);
            channel.feed.mark_gap(Missed::Exactly(messages));
        }
    }

    /// Lets a channel hear what was held back, if the feed has everything up to the newest message
    /// that Redis held when it was last asked. What came before that and is not in that history is
    /// dropped: Redis decides.
    pub(super) fn release(self: &Arc<Self>, request: &Request, newest: &Newest) -> Release {
        let mut states = self.lock();
        let Some(state) = request.current(&mut states) else {
            return Release::Superseded;
        };
        let channel = &request.channel;
        self.judge(channel, state, newest);
        let Backlog {
            payloads,
            overflowed,
            asked,
            ..
        } = state.backlog.take().unwrap_or_default();
        state.has_dropped |= overflowed;
        let mut missing = overflowed && self.has_history();
        if overflowed && !missing {
            channel.feed.mark_gap(Missed::Unknown);
        }
        let (mut rest, mut has_dropped) = (Backlog::default(), false);
        for (place, payload) in payloads.into_iter().enumerate() {
            if missing {
                rest.push(payload, self.link.hub.budget());
                continue;
            }
            let Err(payload) = self.take(channel, state, payload, true) else {
                continue;
            };
            if place < asked && !newest.holds(&payload) {
                self.drop_foreign(channel, state, payload, newest.id.epoch != 0);
                state.judged = Some(Instant::now());
                continue;
            }
            if request.unbroken {
                self.follow(channel, state, newest, &payload);
            }
            let Err(payload) = self.take(channel, state, payload, true) else {
                continue;
            };
            if place >= asked && state.not_before().is_some() && !state.rewound {
                // It came while Redis was asked. In a flood some always do: asking at once again
                // would never end.
                self.drop_unasked(channel, state, Some(payload));
                has_dropped = true;
            } else {
                missing = true;
                rest.push(payload, self.link.hub.budget());
            }
        }
        let (epoch, next_offset) = channel.feed.expects();
        let behind =
            newest.id.epoch != 0 && (epoch != newest.id.epoch || next_offset <= newest.id.offset);
        if missing || behind {
            state.backlog = Some(rest);
            return Release::Again;
        }
        if !request.unbroken {
            // One that came back empty has lost what may have been missed.
            state.is_whole = epoch == newest.id.epoch;
        }
        (state.was_live, state.has_dropped) = (true, has_dropped);
        channel.set_live(true);
        Release::Live
    }

    /// Goes over to the history that Redis holds now, with the first batch of it that came over a
    /// subscription that has brought everything so far: nothing is missing, unless that history
    /// began because Redis had lost something.
    fn follow(&self, channel: &Channel, state: &mut State, newest: &Newest, payload: &Bytes) {
        let (before, _) = channel.feed.expects();
        if newest.after_loss || before == 0 || before == newest.id.epoch {
            return;
        }
        if let Payload::Batch(batch) = Payload::decode(payload.clone())
            && batch.epoch == newest.id.epoch
            && (batch.offset == 1 || !state.has_dropped)
        {
            (state.left, state.known_from) = (before, batch.offset);
            channel.feed.jump(batch.epoch, batch.offset);
        }
    }

    /// Counts messages that were missed and are in the feed after all.
    pub(super) fn recovered(&self, messages: u64) {
        self.link.metrics.messages_recovered.inc_by(messages);
    }

    /// Tells of entries that were left out because nobody can read them. The messages that should
    /// have been there were counted as lost.
    pub(super) fn count_unreadable(&self, channel: &Channel, entries: u64) {
        if entries > 0 && self.warnings.allows(Trouble::Unreadable, &channel.name) {
            tracing::warn!(
                channel = channel.name.as_str(),
                entries,
                "a history in redis has entries that are none of ours"
            );
        }
    }

    /// Whether a channel is live for the first time when it has caught up.
    pub(super) fn is_first(&self, name: &ChannelName) -> bool {
        self.lock()
            .get(name)
            .is_none_or(|(_, state)| !state.was_live)
    }

    /// Takes note that Redis is about to be asked for its newest message. Returns whether no newer
    /// request has taken over.
    pub(super) fn ask(&self, request: &Request) -> bool {
        let mut states = self.lock();
        let Some(state) = request.current(&mut states) else {
            return false;
        };
        if let Some(backlog) = &mut state.backlog {
            backlog.asked = backlog.payloads.len();
        }
        true
    }

    /// Forgets a channel that has no clients here any more; returns whether it was there.
    pub(super) fn forget(&self, channel: &Arc<Channel>) -> bool {
        let mut states = self.lock();
        let is_there = states
            .get(&channel.name)
            .is_some_and(|(held, _)| Arc::ptr_eq(held, channel));
        if is_there {
            states.remove(&channel.name);
        }
        is_there
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn current<'a>(&self, states: &'a mut States) -> Option<&'a mut State> {
        let (_, state) = states.get_mut(&self.channel.name)?;
        (state.round == self.round).then_some(state)
    }
}
