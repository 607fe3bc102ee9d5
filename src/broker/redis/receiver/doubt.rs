//! Batches that do not fit the history that is being received: Redis is asked, but not for each of
//! them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::super::super::envelope::Payload;
use super::super::Backoff;
use super::super::history::Newest;
use super::super::warnings::Trouble;
use super::state::{MOST_UNJUDGED, State, Unjudged};
use super::{Receivers, Request};
use crate::hub::Channel;
use crate::message::Missed;
use crate::metrics::LossCause;

impl Receivers {
    /// Has Redis asked about a payload that does not fit, if there is one, or about a history that
    /// was rewound; or drops the payload, if Redis was asked about another one just now.
    pub(super) fn doubt(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        state: &mut State,
        missing: Option<Bytes>,
    ) {
        if state.not_before().is_some() && !state.rewound {
            return self.drop_unasked(channel, state, missing);
        }
        let (round, unbroken) = (state.hold(&self.rounds), state.is_whole);
        let backlog = state.backlog.get_or_insert_default();
        missing
            .into_iter()
            .for_each(|payload| backlog.push(payload, self.link.hub.budget()));
        self.request(Request {
            channel: channel.clone(),
            round,
            backoff: Backoff::default(),
            unbroken,
        });
    }

    /// Drops a payload that does not fit shortly after Redis was asked about another one. Redis is
    /// asked again when it may be.
    pub(super) fn drop_unasked(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        state: &mut State,
        missing: Option<Bytes>,
    ) {
        state.has_dropped |= missing.is_some();
        if let Some(payload) = missing {
            self.drop_unjudged(channel, state, payload);
        }
        let not_before = state.not_before().unwrap_or_else(Instant::now);
        if !std::mem::replace(&mut state.doubts, true) {
            let (this, channel) = (self.clone(), channel.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(not_before.into()).await;
                this.ask_again(&channel);
            });
        }
    }

    /// Drops a batch that Redis may hold. Whether it counts as foreign is decided when Redis is
    /// asked.
    fn drop_unjudged(&self, channel: &Channel, state: &mut State, payload: Bytes) {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return;
        };
        if state.is_late(&batch) {
            return;
        }
        let batch = Unjudged {
            epoch: batch.epoch,
            offset: batch.offset,
            messages: batch.messages.len() as u64,
        };
        if state.unjudged.len() < MOST_UNJUDGED {
            state.unjudged.push(batch);
        } else {
            self.count_foreign(channel, batch);
        }
    }

    /// Counts those of the batches dropped without asking that Redis does not hold. The others were
    /// recovered from the history.
    pub(super) fn judge(&self, channel: &Channel, state: &mut State, newest: &Newest) {
        for batch in std::mem::take(&mut state.unjudged) {
            let is_held = batch.epoch == newest.id.epoch
                && batch.offset > 0
                && batch.last_offset() <= newest.id.offset;
            if !is_held {
                self.count_foreign(channel, batch);
            }
        }
    }

    /// Batches were dropped without asking: one of them may have been the first of what Redis holds
    /// by now.
    fn ask_again(&self, channel: &Arc<Channel>) {
        let mut states = self.lock();
        let Some((held, state)) = states.get_mut(&channel.name) else {
            return;
        };
        if !Arc::ptr_eq(held, channel)
            || !std::mem::take(&mut state.doubts)
            || state.backlog.is_some()
        {
            return;
        }
        let (round, unbroken) = (state.hold(&self.rounds), state.is_whole);
        self.request(Request {
            channel: channel.clone(),
            round,
            backoff: Backoff::default(),
            unbroken,
        });
    }

    /// Drops a batch that Redis does not hold. If Redis holds another history, `holds_other`,
    /// nothing is missing for that; if it holds none, this one may have been lost.
    pub(super) fn drop_foreign(
        &self,
        channel: &Channel,
        state: &State,
        payload: Bytes,
        holds_other: bool,
    ) {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return;
        };
        if state.is_late(&batch) {
            return;
        }
        if !holds_other {
            channel.feed.mark_gap(Missed::Unknown);
        }
        self.count_foreign(
            channel,
            Unjudged {
                epoch: batch.epoch,
                offset: batch.offset,
                messages: batch.messages.len() as u64,
            },
        );
    }

    fn count_foreign(&self, channel: &Channel, batch: Unjudged) {
        self.link.metrics.lost(LossCause::Foreign, batch.messages);
        if self.warnings.allows(Trouble::Foreign, &channel.name) {
            tracing::warn!(
                channel = channel.name.as_str(),
                offset = batch.offset,
                messages = batch.messages,
                "dropped a batch that is not of the history that redis holds: another deployment has the same names, or \
                 somebody has published it by hand"
            );
        }
    }
}
