//! Batches that do not fit the history that is being received: Redis is asked, but not for each of
//! them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::super::super::envelope::Payload;
use super::super::Backoff;
use super::super::complaints::Trouble;
use super::reception::Reception;
use super::{Relay, Request};
use crate::hub::Channel;
use crate::message::Missed;
use crate::metrics::LossCause;

impl Relay {
    /// Has Redis asked about a payload that does not fit, if there is one, or about a history that
    /// was rewound; or drops the payload, if Redis was asked about another one just now.
    pub(super) fn doubt(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        reception: &mut Reception,
        missing: Option<Bytes>,
    ) {
        if reception.not_before().is_some() && !reception.rewound {
            return self.drop_unasked(channel, reception, missing);
        }
        let (round, unbroken) = (reception.hold(&self.rounds), reception.is_whole);
        let backlog = reception.backlog.get_or_insert_default();
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
        reception: &mut Reception,
        missing: Option<Bytes>,
    ) {
        reception.has_dropped |= missing.is_some();
        missing
            .into_iter()
            .for_each(|payload| self.drop_foreign(channel, reception, payload, true));
        let not_before = reception.not_before().unwrap_or_else(Instant::now);
        if !std::mem::replace(&mut reception.doubts, true) {
            let (this, channel) = (self.clone(), channel.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(not_before.into()).await;
                this.ask_again(&channel);
            });
        }
    }

    /// Batches were dropped without asking: one of them may have been the first of what Redis holds
    /// by now.
    fn ask_again(&self, channel: &Arc<Channel>) {
        let mut receptions = self.lock();
        let Some((held, reception)) = receptions.get_mut(&channel.name) else {
            return;
        };
        if !Arc::ptr_eq(held, channel)
            || !std::mem::take(&mut reception.doubts)
            || reception.backlog.is_some()
        {
            return;
        }
        let (round, unbroken) = (reception.hold(&self.rounds), reception.is_whole);
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
        reception: &Reception,
        payload: Bytes,
        holds_other: bool,
    ) {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return;
        };
        if (batch.epoch != 0 && batch.epoch == reception.left) || reception.has_heard(&batch) {
            // Late: that history has been given up. If it was not heard, its publisher's next
            // number will tell.
            return;
        }
        self.link
            .metrics
            .lost(LossCause::Foreign, batch.messages.len() as u64);
        if !holds_other {
            channel.feed.mark_gap(Missed::Unknown);
        }
        if self.complaints.may(Trouble::Foreign, &channel.name) {
            let (channel, offset, messages) =
                (channel.name.as_str(), batch.offset, batch.messages.len());
            tracing::warn!(
                channel,
                offset,
                messages,
                "dropped a batch that is not of the history that redis holds: another deployment has the same names, or \
                 somebody has published it by hand"
            );
        }
    }
}
