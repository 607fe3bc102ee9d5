//! The end of catching up: what was held back is taken, and the channel goes live.

use std::sync::Arc;

use bytes::Bytes;

use super::super::super::envelope::Payload;
use super::super::history::Newest;
use super::backlog::{Backlog, HeldBack};
use super::{Receiver, Request, State};
use crate::message::Missed;

/// Whether a channel has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Release {
    /// It is live.
    Live,
    /// Something is still missing.
    Again,
    /// A newer request has taken over.
    Superseded,
}

/// The fate of a payload that was held back.
enum Verdict {
    /// It was taken, or received before.
    Taken,
    /// Redis does not hold it.
    Foreign,
    /// It came while Redis was asked, and does not fit.
    Unasked,
    /// Something before it is missing.
    Missing(Bytes),
}

impl Receiver {
    /// Takes what was held back and lets the channel go live, if the feed has everything up to the
    /// newest message that Redis held when it was last asked. What came before that and is not in
    /// that history is dropped: Redis decides.
    pub(in super::super) fn release(
        self: &Arc<Self>,
        request: &Request,
        newest: &Newest,
    ) -> Release {
        let Some(mut state) = self.current(request.round) else {
            return Release::Superseded;
        };
        self.judge(&mut state, newest);
        // 1. A backlog that did not fit was dropped. With history it is read from there.
        let backlog = state.backlog.take().unwrap_or_default();
        let overflowed = backlog.overflowed;
        state.has_dropped |= overflowed;
        let mut missing = overflowed && self.shared.has_history();
        if overflowed && !missing {
            state.writer.mark_gap(Missed::Unknown);
        }
        // 2. Take it, up to the first payload before which something is missing.
        let budget = self.shared.link.hub.budget();
        let mut rest = Backlog::default();
        let mut dropped_unasked = false;
        for held_back in backlog.into_payloads() {
            if missing {
                rest.push(held_back.payload, budget);
                continue;
            }
            match self.take_held_back(&mut state, held_back, request.unbroken, newest) {
                Verdict::Taken | Verdict::Foreign => {}
                Verdict::Unasked => dropped_unasked = true,
                Verdict::Missing(payload) => {
                    missing = true;
                    rest.push(payload, budget);
                }
            }
        }
        // 3. Go on holding back if anything is missing.
        let (epoch, next_offset) = state.expects();
        let is_behind =
            newest.id.epoch != 0 && (epoch != newest.id.epoch || next_offset <= newest.id.offset);
        if missing || is_behind {
            state.backlog = Some(rest);
            return Release::Again;
        }
        // 4. Go live. A Redis that came back empty has lost what may have been missed.
        if !request.unbroken {
            state.is_whole = epoch == newest.id.epoch;
        }
        (state.was_live, state.has_dropped) = (true, dropped_unasked);
        self.channel.set_live(true);
        Release::Live
    }

    /// Takes one payload, judged by the newest message that Redis held.
    fn take_held_back(
        self: &Arc<Self>,
        state: &mut State,
        HeldBack {
            payload,
            before_asking,
        }: HeldBack,
        unbroken: bool,
        newest: &Newest,
    ) -> Verdict {
        let Err(payload) = self.take(state, payload, true) else {
            return Verdict::Taken;
        };
        // 1. Redis would hold it by now if it were of its history.
        if before_asking && !newest.holds(&payload) {
            self.drop_foreign(state, payload, newest.id.epoch != 0);
            state.foreign.judged_now();
            return Verdict::Foreign;
        }
        // 2. It may begin another history.
        if unbroken {
            state.follow(newest, &payload);
        }
        let Err(payload) = self.take(state, payload, true) else {
            return Verdict::Taken;
        };
        // 3. It came while Redis was asked. In a flood some always do: asking at once again would
        // never end.
        if !before_asking && state.foreign.not_before().is_some() && !state.rewound {
            self.drop_unasked(state, Some(payload));
            return Verdict::Unasked;
        }
        Verdict::Missing(payload)
    }
}

impl State {
    /// Goes over to the history that Redis holds now, with the first batch of it that came over a
    /// subscription that has brought everything so far: nothing is missing, unless that history
    /// began because Redis had lost something.
    fn follow(&mut self, newest: &Newest, payload: &Bytes) {
        let (before, _) = self.expects();
        if newest.after_loss || before == 0 || before == newest.id.epoch {
            return;
        }
        if let Payload::Batch(batch) = Payload::decode(payload.clone())
            && batch.epoch == newest.id.epoch
            && (batch.offset == 1 || !self.has_dropped)
        {
            self.left = before;
            self.known.from = batch.offset;
            self.writer.jump(batch.epoch, batch.offset);
        }
    }
}
