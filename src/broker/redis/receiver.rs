//! A receiver: takes what Redis delivers on one channel, in order, and appends it to the channel's
//! feed. It is made when the channel gets its first client here and ends when the channel goes,
//! whatever becomes of subscriptions meanwhile: a channel that comes again begins with what is there
//! then, and has missed nothing. It holds back what arrives while [`super::catch_up`] reads what came
//! before.

mod backlog;
mod catching_up;
mod foreign;
mod known;
mod release;
mod take;

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use self::backlog::Backlog;
use self::foreign::Foreign;
use self::known::Known;
pub(super) use self::release::Release;
use super::super::Link;
use super::Backoff;
use super::history::Newest;
use super::warnings::Warnings;
use crate::feed::FeedWriter;
use crate::hub::Channel;
use crate::message::{Missed, Sequence};
use crate::metrics::LossCause;

/// More messages than a node can have missed: a larger number comes from nonsense.
const MOST_MISSED: u64 = 10_000_000_000;

/// The parts that all receivers of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) warnings: Arc<Warnings>,
    /// How long Redis keeps a history after its last message; zero if it keeps none. With history
    /// offsets show what is missing, without it only the sequences of publishers do.
    pub(super) kept_for: Duration,
    /// Counts the times that any receiver began to hold back.
    pub(super) rounds: AtomicU64,
    /// To [`super::catch_up`].
    pub(super) requests: UnboundedSender<Request>,
}

/// Receives one channel.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) channel: Arc<Channel>,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// Protected by the receiver's lock. The lock is held while a batch is decoded and appended, and
/// never while anything is awaited.
#[derive(Debug)]
struct State {
    writer: FeedWriter,
    known: Known,
    /// Payloads that wait until the channel has caught up; `None` if it has.
    backlog: Option<Backlog>,
    /// Tells the time that it began to hold back from all others.
    round: u64,
    /// The channel has gone.
    ended: bool,
    /// It has been live: what is missing from then on was missed, even if there was no history yet.
    was_live: bool,
    /// The epoch of the history that was received before this one.
    left: u64,
    /// An offset has been given out twice: Redis has lost the end of this history, and others have
    /// gone on with it.
    rewound: bool,
    /// Redis held the feed's history when this subscription began: what has come since is all there
    /// was.
    is_whole: bool,
    /// Payloads were dropped unread since the channel was last live: the first that is held back
    /// may not be the first of its history.
    has_dropped: bool,
    foreign: Foreign,
}

/// A channel has to catch up. At most one for each time that it began to hold back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) receiver: Arc<Receiver>,
    pub(super) round: u64,
    /// Until it is tried again, if reading fails.
    pub(super) backoff: Backoff,
    /// It began to hold back at a batch that did not fit, over a subscription that has brought
    /// everything up to that.
    pub(super) unbroken: bool,
}

impl Receiver {
    pub(super) fn new(channel: Arc<Channel>, writer: FeedWriter, shared: Arc<Shared>) -> Self {
        let state = State {
            writer,
            known: Known::default(),
            // Nothing counts before its own subscription: an earlier one may still bring something.
            backlog: Some(Backlog::default()),
            round: 0,
            ended: false,
            was_live: false,
            left: 0,
            rewound: false,
            is_whole: false,
            has_dropped: false,
            foreign: Foreign::default(),
        };
        Self {
            channel,
            shared,
            state: Mutex::new(state),
        }
    }

    /// Takes a payload that Redis delivered.
    pub(super) fn deliver(self: &Arc<Self>, payload: Bytes) {
        let mut state = self.lock();
        match &mut state.backlog {
            Some(backlog) => backlog.push(payload, self.shared.link.hub.budget()),
            None => {
                let missing = self.take(&mut state, payload, true).err();
                if missing.is_some() || state.rewound {
                    self.doubt(&mut state, missing);
                }
            }
        }
        drop(state);
        self.shared.link.hub.make_room();
    }

    /// Holds back what arrives from now on; returns the round's number.
    pub(super) fn hold(&self) -> u64 {
        self.lock().hold(&self.shared.rounds)
    }

    /// Redis delivers the channel from now on: with history it catches up, without it goes live
    /// with what was held back.
    pub(super) fn subscribed(self: &Arc<Self>, round: u64) {
        let request = Request {
            receiver: self.clone(),
            round,
            backoff: Backoff::default(),
            unbroken: false,
        };
        if self.shared.has_history() {
            self.shared.request(request);
        } else {
            self.release(&request, &Newest::default());
        }
    }

    /// Redis does not deliver the channel for now. Nor is it read what it misses: where that fails,
    /// it would keep others waiting.
    pub(super) fn unsubscribed(&self) {
        self.channel.set_live(false);
        self.hold();
    }

    /// A message that this node published was refused, or was published before.
    pub(super) fn settle(&self, sequence: Sequence) {
        self.lock().writer.settle(sequence);
    }

    /// The channel has gone: nothing needs to be received.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.backlog = None;
    }

    /// Messages are missing here that cannot be had.
    fn missed(&self, state: &mut State, messages: u64) {
        let metrics = &self.shared.link.metrics;
        if messages > MOST_MISSED {
            // Somebody has changed the numbers: nobody knows how many.
            metrics.lost(LossCause::Broker, 1);
            state.writer.mark_gap(Missed::Unknown);
        } else if messages > 0 {
            metrics.lost(LossCause::Broker, messages);
            state.writer.mark_gap(Missed::Exactly(messages));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if no newer request has taken over.
    fn current(&self, round: u64) -> Option<MutexGuard<'_, State>> {
        Some(self.lock()).filter(|state| state.round == round && !state.ended)
    }
}

impl State {
    /// Begins to hold back; returns the round's number.
    fn hold(&mut self, rounds: &AtomicU64) -> u64 {
        self.backlog = Some(Backlog::default());
        self.round = rounds.fetch_add(1, Relaxed) + 1;
        self.round
    }

    /// The epoch, 0 if none is known yet, and the offset of the message that comes next.
    fn expects(&self) -> (u64, u64) {
        self.writer.feed().expects()
    }
}

impl Shared {
    fn has_history(&self) -> bool {
        !self.kept_for.is_zero()
    }

    /// Has a channel catch up.
    pub(super) fn request(&self, request: Request) {
        // The other end ends with the broker: then nobody needs it any more.
        let _ = self.requests.send(request);
    }
}
