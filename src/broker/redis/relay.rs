//! From Redis to the feeds: the one ordered reader. It owns what has been heard from which node, so that a batch that was
//! published twice is heard once and what never came is counted; and it holds back what arrives while [`super::catch_up`]
//! reads what came before.

mod reception;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use self::reception::{Backlog, Reception};
use super::super::Link;
use super::super::envelope::{Envelope, Payload};
use super::{Backoff, Names};
use crate::channel::ChannelName;
use crate::feed::Accepted;
use crate::hub::Channel;
use crate::message::{BatchBuilder, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

#[derive(Debug)]
pub(super) struct Relay {
    link: Link,
    names: Names,
    /// How long Redis keeps a history after its last message; zero if it keeps none. With history offsets tell what is
    /// missing, without it only the numbers of nodes do.
    kept_for: Duration,
    receptions: Mutex<HashMap<ChannelName, Reception>>,
    /// Counts the times that any channel began to hold back: also one that has been forgotten in between.
    rounds: AtomicU64,
    requests: UnboundedSender<Request>,
}

/// A channel has to catch up. At most one for each time that it began to hold back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) channel: Arc<Channel>,
    pub(super) round: u64,
    /// Until it is tried again, if reading fails.
    pub(super) backoff: Backoff,
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

impl Relay {
    pub(super) fn new(link: Link, names: Names, kept_for: Duration, requests: UnboundedSender<Request>) -> Self {
        Self { link, names, kept_for, receptions: Mutex::default(), rounds: AtomicU64::new(0), requests }
    }

    fn has_history(&self) -> bool {
        !self.kept_for.is_zero()
    }

    /// Takes a payload that Redis delivered.
    pub(super) fn deliver(&self, pubsub: &str, payload: Bytes) {
        let Some(name) = self.names.channel(pubsub) else { return };
        // Lately unsubscribed, and this was on its way.
        let Some(channel) = self.link.hub.find(&name) else { return };
        let mut receptions = self.lock();
        let reception = receptions.entry(name).or_default();
        match &mut reception.backlog {
            Some(backlog) => backlog.push(payload, self.link.hub.budget()),
            None => {
                let missing = self.take(&channel, reception, payload, true).err();
                if missing.is_some() || reception.rewound {
                    let round = reception.hold(&self.rounds);
                    let backlog = reception.backlog.get_or_insert_default();
                    missing.into_iter().for_each(|payload| backlog.push(payload, self.link.hub.budget()));
                    self.request(Request { channel, round, backoff: Backoff::default() });
                }
            }
        }
        drop(receptions);
        self.link.hub.make_room();
    }

    /// Holds back what arrives on a channel from now on.
    pub(super) fn hold(&self, name: &ChannelName) -> u64 {
        self.lock().entry(name.clone()).or_default().hold(&self.rounds)
    }

    /// Redis delivers a channel from now on: with history it catches up, without it goes live with what was held back.
    pub(super) fn subscribed(&self, channel: &Arc<Channel>, round: u64) {
        let request = Request { channel: channel.clone(), round, backoff: Backoff::default() };
        if self.has_history() {
            self.request(request);
        } else {
            self.release(&request, false);
        }
    }

    /// Redis does not deliver a channel for now, nor is what it misses read: where that failed, it would keep others waiting.
    pub(super) fn unsubscribed(&self, channel: &Channel) {
        channel.set_live(false);
        self.hold(&channel.name);
    }

    /// Has a channel catch up.
    pub(super) fn request(&self, request: Request) {
        // The receiver ends with the broker: then nobody needs it any more.
        let _ = self.requests.send(request);
    }

    /// Takes note of where the history ends. Returns whether nothing was missed: because nobody has waited for anything
    /// here, or nothing was said.
    pub(super) fn begin(&self, request: &Request, epoch: u64, next_offset: u64) -> bool {
        let mut receptions = self.lock();
        let Some(reception) = request.current(&mut receptions) else { return false };
        let feed = &request.channel.feed;
        if feed.expects() == (epoch, next_offset) && !reception.knows_offsets() {
            return true;
        }
        if reception.was_live || !feed.is_empty() {
            return false;
        }
        reception.known_from = next_offset;
        feed.jump(epoch, next_offset);
        true
    }

    /// Whether any batch of this channel has been received here.
    pub(super) fn has_received(&self, request: &Request) -> bool {
        request.current(&mut self.lock()).is_some_and(|reception| reception.knows_offsets())
    }

    /// Takes a payload from the history; what lies between the feed's end and it is lost. Returns how many messages the
    /// feed has got by that. `late`: whether somebody has been waiting for it.
    pub(super) fn recover(&self, request: &Request, payload: Bytes, late: bool) -> u64 {
        let mut receptions = self.lock();
        let Some(reception) = request.current(&mut receptions) else { return 0 };
        let channel = &request.channel;
        let mut from = channel.feed.expects().1;
        if let Err(payload) = self.take(channel, reception, payload, late) {
            from = self.take_anyway(channel, reception, payload, late);
        }
        drop(receptions);
        self.link.hub.make_room();
        channel.feed.expects().1 - from
    }

    /// Takes a batch although something before it is missing, which is lost; returns its offset.
    fn take_anyway(&self, channel: &Channel, reception: &mut Reception, payload: Bytes, late: bool) -> u64 {
        if let Payload::Batch(Envelope { epoch, offset, .. }) = Payload::decode(payload.clone()) {
            self.jump(channel, reception, epoch, offset);
        }
        let from = channel.feed.expects().1;
        if self.take(channel, reception, payload, late).is_err() {
            tracing::error!(channel = channel.name.as_str(), offset = from, "a batch does not fit its own place");
        }
        from
    }

    /// What lies before this place cannot be had.
    pub(super) fn lose(&self, request: &Request, epoch: u64, next_offset: u64) {
        if let Some(reception) = request.current(&mut self.lock()) {
            self.jump(&request.channel, reception, epoch, next_offset);
        }
    }

    /// Takes note of a batch that lies before the feed's end in the history: whether it was heard at all. If not, another
    /// server has given out the same offsets.
    pub(super) fn compare(&self, request: &Request, payload: Bytes) {
        let Payload::Batch(batch) = Payload::decode(payload) else { return };
        if batch.epoch == request.channel.feed.expects().0
            && let Some(reception) = request.current(&mut self.lock())
        {
            let last = batch.number + batch.messages.len() as u64 - 1;
            reception.repeated(batch.node, batch.epoch, batch.offset, last);
        }
    }

    /// Whether this history has been found to have gone on from before its end.
    pub(super) fn is_rewound(&self, request: &Request) -> bool {
        request.current(&mut self.lock()).is_some_and(|reception| reception.rewound)
    }

    /// It has been ended for that.
    pub(super) fn abandoned(&self, request: &Request) {
        if let Some(reception) = request.current(&mut self.lock()) {
            reception.rewound = false;
        }
    }

    fn jump(&self, channel: &Channel, reception: &mut Reception, epoch: u64, next_offset: u64) {
        let (before, expected) = channel.feed.expects();
        reception.known_from = next_offset;
        if before != epoch {
            reception.left = before;
            reception.rewound = false;
        }
        channel.feed.jump(epoch, next_offset);
        if before == epoch || (before == 0 && reception.was_live) {
            self.missed(channel, next_offset.saturating_sub(expected));
        } else if before != 0 && channel.feed.idle().is_none_or(|silent| silent < self.kept_for) {
            // Nobody knows how much of the old history was never heard here; nodes' own numbers may tell, see `take_next`.
            // One that has come of age was heard to its end.
            channel.feed.mark_gap(None);
        }
    }

    /// Messages are missing here that cannot be had.
    fn missed(&self, channel: &Channel, messages: u64) {
        if messages > 0 {
            self.link.metrics.lost(LossCause::Broker, messages);
            channel.feed.mark_gap(Some(messages));
        }
    }

    /// Lets a channel hear what was held back, if the history it has read reaches so far. `forced`: even if it does not,
    /// because it never will; what lies between is lost.
    pub(super) fn release(&self, request: &Request, forced: bool) -> Release {
        let mut receptions = self.lock();
        let Some(reception) = request.current(&mut receptions) else { return Release::Superseded };
        let channel = &request.channel;
        let Backlog { payloads, overflowed, .. } = reception.backlog.take().unwrap_or_default();
        let mut missing = overflowed && self.has_history();
        if overflowed && !missing {
            channel.feed.mark_gap(None);
        }
        let mut rest = Backlog::default();
        for payload in payloads {
            if missing {
                rest.push(payload, self.link.hub.budget());
            } else if let Err(payload) = self.take(channel, reception, payload, true) {
                if forced {
                    self.take_anyway(channel, reception, payload, true);
                } else {
                    missing = true;
                    rest.push(payload, self.link.hub.budget());
                }
            }
        }
        if missing {
            reception.backlog = Some(rest);
            return Release::Again;
        }
        reception.was_live = true;
        channel.set_live(true);
        Release::Live
    }

    /// Counts messages that were missed and are in the feed after all.
    pub(super) fn recovered(&self, messages: u64) {
        self.link.metrics.messages_recovered.inc_by(messages);
    }

    /// Whether a channel is live for the first time when it has caught up.
    pub(super) fn is_first(&self, name: &ChannelName) -> bool {
        self.lock().get(name).is_none_or(|reception| !reception.was_live)
    }

    /// Whether no newer request has taken over.
    pub(super) fn is_current(&self, request: &Request) -> bool {
        request.current(&mut self.lock()).is_some()
    }

    /// Forgets a channel that has no clients here any more.
    pub(super) fn forget(&self, name: &ChannelName) {
        self.lock().remove(name);
    }

    /// Appends what a payload holds, if it is next; gives it back if something before it is missing. How long it took is
    /// measured if it is `timed`.
    fn take(&self, channel: &Channel, reception: &mut Reception, payload: Bytes, timed: bool) -> Result<(), Bytes> {
        match Payload::decode(payload.clone()) {
            Payload::Batch(envelope) if self.has_history() && envelope.offset > 0 => {
                return self.take_next(channel, reception, envelope, timed).then_some(()).ok_or(payload);
            }
            Payload::Batch(envelope) => self.take_any(channel, reception, envelope),
            Payload::Foreign(kind, payload) => {
                let mut batch = BatchBuilder::default();
                batch.push(kind, &payload, 0);
                self.link.metrics.messages_relayed.inc();
                channel.feed.append_foreign(batch.build(now_ns()));
            }
            Payload::Malformed => {
                self.link.metrics.lost(LossCause::Malformed, 1);
                channel.feed.mark_gap(Some(1));
                tracing::warn!(
                    channel = channel.name.as_str(),
                    "dropped a payload from redis that begins like a batch and is none"
                );
            }
        }
        Ok(())
    }

    /// With history: whether it was next, or older.
    fn take_next(&self, channel: &Channel, reception: &mut Reception, envelope: Envelope, timed: bool) -> bool {
        let Envelope { epoch, node, number, offset, published_ns, ref traceparent, ref messages } = envelope;
        let (count, last) = (messages.len(), number + messages.len() as u64 - 1);
        let span = telemetry::relay_span("redis", channel.name.as_str(), count, traceparent);
        let own = node == channel.publisher;
        if epoch == reception.left && epoch != channel.feed.expects().0 {
            // Late: that history has been given up. If it was not heard, its publisher's next number will tell.
            return true;
        }
        if let Some(newest) = reception.heard.get_mut(&node)
            && channel.feed.expects() == (epoch, offset)
        {
            if last <= newest.number {
                // Heard from a Redis that has lost it, and published again because its publisher got no answer.
                channel.feed.jump(epoch, offset + count as u64);
                newest.moved(last, offset);
                if own {
                    channel.feed.confirm(last);
                }
                return true;
            }
            if newest.epoch != epoch {
                self.missed(channel, number.saturating_sub(newest.number + 1));
            }
        }
        if reception.was_live && channel.feed.expects().0 == 0 && offset == 1 && number > 1 {
            // Not its publisher's first: there was another history, of which nothing was heard here.
            channel.feed.mark_gap(None);
        }
        let mut batch = envelope.into_batch(own).build(published_ns);
        batch.offset = offset;
        let followers = || self.link.hub.followers(&channel.name);
        match telemetry::deliver(&span, followers, || channel.feed.accept(epoch, batch, own.then_some(last))) {
            Accepted::Gap => return false,
            Accepted::Duplicate => reception.repeated(node, epoch, offset, last),
            Accepted::Appended => {
                reception.hear(node, epoch, last, offset);
                if own {
                    channel.unheard.came_back(last);
                }
                self.count(count, timed.then_some(published_ns));
            }
        }
        true
    }

    /// Of a node without history: everything as it comes, but nothing twice. It takes no offset here if we have history,
    /// because Redis gave it none.
    fn take_any(&self, channel: &Channel, reception: &mut Reception, envelope: Envelope) {
        let Envelope { node, number, published_ns, ref traceparent, ref messages, .. } = envelope;
        let (count, last) = (messages.len(), number + messages.len() as u64 - 1);
        match reception.heard.get(&node) {
            // Published again because the first answer was lost.
            Some(newest) if last <= newest.number => return,
            Some(newest) => self.missed(channel, number.saturating_sub(newest.number + 1)),
            None => {}
        }
        reception.hear(node, 0, last, channel.feed.expects().1);
        let span = telemetry::relay_span("redis", channel.name.as_str(), count, traceparent);
        let own = node == channel.publisher;
        let batch = envelope.into_batch(own).build(published_ns);
        let followers = || self.link.hub.followers(&channel.name);
        telemetry::deliver(&span, followers, || {
            if self.has_history() {
                channel.feed.append_foreign(batch);
            } else {
                channel.feed.append(batch, own.then_some(last));
            }
        });
        self.count(count, Some(published_ns));
    }

    fn count(&self, messages: usize, published_ns: Option<u64>) {
        let metrics = &self.link.metrics;
        metrics.messages_relayed.inc_by(messages as u64);
        if let Some(published_ns) = published_ns {
            metrics.relay_seconds.observe(now_ns().saturating_sub(published_ns) as f64 / 1e9);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelName, Reception>> {
        self.receptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn current<'a>(&self, receptions: &'a mut HashMap<ChannelName, Reception>) -> Option<&'a mut Reception> {
        receptions.get_mut(&self.channel.name).filter(|reception| reception.round == self.round)
    }
}
