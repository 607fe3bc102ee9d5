//! Batches that do not fit the history that is being received. Redis decides which history a channel
//! has, so it is asked, but not for each of them: a flood of foreign batches must neither hold the
//! channel back all the time nor keep Redis busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep_until;
use tracing::warn;

use super::super::super::envelope::{Envelope, Payload};
use super::super::Backoff;
use super::super::history::Newest;
use super::super::warnings::Trouble;
use super::known::Relation;
use super::{Receiver, Request, Shared, State};
use crate::message::Missed;
use crate::metrics::LossCause;

/// After Redis turned out not to hold a batch: time in which batches that do not fit are dropped
/// without asking.
const PAUSE: Duration = Duration::from_secs(1);

/// Batches that were dropped without asking, and are judged when Redis is asked. In a flood, those
/// beyond count as foreign at once.
const MOST_UNJUDGED: usize = 256;

/// Knowledge about batches that did not fit.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// When Redis was last found not to hold a batch that came.
    judged: Option<Instant>,
    /// Redis will be asked again when the pause is over, because batches were dropped meanwhile.
    asks_again: bool,
    /// Those batches. The history may have them: then they are recovered from there.
    unjudged: Vec<Dropped>,
}

/// A batch that was dropped.
#[derive(Clone, Copy, Debug)]
struct Dropped {
    epoch: u64,
    offset: u64,
    messages: u64,
}

impl Foreign {
    /// When Redis may be asked again; `None` if now.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.judged
            .map(|at| at + PAUSE)
            .filter(|at| *at > Instant::now())
    }

    /// Redis does not hold a batch that came.
    pub(super) fn judged_now(&mut self) {
        self.judged = Some(Instant::now());
    }
}

impl Receiver {
    /// Has Redis asked about a payload that does not fit, if there is one, or about a history that
    /// was rewound; or drops the payload, if Redis was asked about another one just now.
    pub(super) fn doubt(self: &Arc<Self>, state: &mut State, missing: Option<Bytes>) {
        if state.foreign.not_before().is_some() && !state.rewound {
            return self.drop_unasked(state, missing);
        }
        self.ask_redis(state);
        let backlog = state.backlog.get_or_insert_default();
        if let Some(payload) = missing {
            backlog.push(payload, self.shared.link.hub.budget());
        }
    }

    /// Drops a payload that does not fit shortly after Redis was asked about another one. Redis is
    /// asked again when it may be: this may be the first batch of a history that it holds by then.
    pub(super) fn drop_unasked(self: &Arc<Self>, state: &mut State, missing: Option<Bytes>) {
        if let Some(payload) = missing {
            state.has_dropped = true;
            self.drop_unjudged(state, payload);
        }
        let not_before = state.foreign.not_before().unwrap_or_else(Instant::now);
        if !std::mem::replace(&mut state.foreign.asks_again, true) {
            let this = self.clone();
            tokio::spawn(async move {
                sleep_until(not_before.into()).await;
                this.ask_again();
            });
        }
    }

    fn ask_again(self: &Arc<Self>) {
        let mut state = self.lock();
        let asks_again = std::mem::take(&mut state.foreign.asks_again);
        if asks_again && state.backlog.is_none() && !state.ended {
            self.ask_redis(&mut state);
        }
    }

    /// Holds back what arrives, and has Redis asked.
    fn ask_redis(self: &Arc<Self>, state: &mut State) {
        self.shared.request(Request {
            receiver: self.clone(),
            round: state.hold(&self.shared.rounds),
            backoff: Backoff::default(),
            unbroken: state.is_whole,
        });
    }

    /// Drops a batch that Redis may hold.
    fn drop_unjudged(&self, state: &mut State, payload: Bytes) {
        let Some(batch) = state.not_late(payload) else {
            return;
        };
        if state.foreign.unjudged.len() < MOST_UNJUDGED {
            state.foreign.unjudged.push(Dropped::of(&batch));
        } else {
            self.count_foreign(Dropped::of(&batch));
        }
    }

    /// Counts those of the batches dropped without asking that Redis does not hold. The others are
    /// in its history, from which they were recovered.
    pub(super) fn judge(&self, state: &mut State, newest: &Newest) {
        for batch in std::mem::take(&mut state.foreign.unjudged) {
            if !newest.has_range(batch.epoch, batch.offset, batch.messages) {
                self.count_foreign(batch);
            }
        }
    }

    /// Drops a batch that Redis does not hold. If Redis holds another history, `holds_other`,
    /// nothing is missing for that; if it holds none, this one may have been lost.
    pub(super) fn drop_foreign(&self, state: &mut State, payload: Bytes, holds_other: bool) {
        let Some(batch) = state.not_late(payload) else {
            return;
        };
        if !holds_other {
            state.writer.mark_gap(Missed::Unknown);
        }
        self.count_foreign(Dropped::of(&batch));
    }

    fn count_foreign(&self, batch: Dropped) {
        let Shared { link, warnings, .. } = &*self.shared;
        link.metrics.lost(LossCause::Foreign, batch.messages);
        let name = &self.channel.name;
        if warnings.allows(Trouble::Foreign, name) {
            warn!(
                channel = name.as_str(),
                offset = batch.offset,
                messages = batch.messages,
                "dropped a batch that is not of the history that redis holds: another deployment \
                 has the same names, or somebody has published it by hand"
            );
        }
    }
}

impl State {
    /// The batch in a payload that does not fit; `None` if it is only late. Then it is of a history
    /// that has been given up, or was received before. If it was not, its publisher's next sequence
    /// shows that.
    fn not_late(&self, payload: Bytes) -> Option<Envelope> {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return None;
        };
        let is_late = (batch.epoch != 0 && batch.epoch == self.left)
            || self.known.relation(&batch) == Relation::Received;
        (!is_late).then_some(batch)
    }
}

impl Dropped {
    fn of(batch: &Envelope) -> Self {
        Self {
            epoch: batch.epoch,
            offset: batch.offset,
            messages: batch.messages.len() as u64,
        }
    }
}
