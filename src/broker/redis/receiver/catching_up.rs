//! What [`super::super::catch_up`] does to a receiver. Each step names the request for which it is
//! done, and does nothing if a newer one has taken over.

use tracing::{error, warn};

use super::super::super::envelope::{Envelope, Payload};
use super::super::history::Newest;
use super::super::warnings::Trouble;
use super::known::Placed;
use super::{Receiver, Request, State};
use crate::message::Missed;
use bytes::Bytes;

impl Request {
    /// Takes note that Redis is about to be asked for its newest message. Returns whether no newer
    /// request has taken over.
    pub(in super::super) fn ask(&self) -> bool {
        let Some(mut state) = self.receiver.current(self.round) else {
            return false;
        };
        if let Some(backlog) = &mut state.backlog {
            backlog.ask();
        }
        true
    }

    /// Takes note of where the history ends. Returns whether nothing was missed: because nobody has
    /// waited for anything here, or nothing was published.
    pub(in super::super) fn begin(&self, newest: &Newest) -> bool {
        let Some(mut state) = self.receiver.current(self.round) else {
            return false;
        };
        let (epoch, next_offset) = (newest.id.epoch, newest.id.offset + 1);
        if self.unbroken && !state.rewound {
            // The backlog decides: see [`Receiver::release`].
            return true;
        }
        if state.expects() == (epoch, next_offset) && !state.known.has_offsets() {
            return true;
        }
        if state.was_live || !state.writer.feed().is_empty() {
            return false;
        }
        state.known.from = next_offset;
        state.writer.jump(epoch, next_offset);
        true
    }

    /// Whether the channel is live for the first time when it has caught up: then nobody has missed
    /// what is recovered.
    pub(in super::super) fn is_first(&self) -> bool {
        !self.receiver.lock().was_live
    }

    /// Whether any batch of this channel has been received here.
    pub(in super::super) fn has_received(&self) -> bool {
        self.receiver
            .current(self.round)
            .is_some_and(|state| state.known.has_offsets())
    }

    /// Takes a batch from the history. What lies between the feed's end and it is lost. `late` is
    /// whether somebody has been waiting for it.
    pub(in super::super) fn recover(&self, batch: Envelope, late: bool) {
        let receiver = &self.receiver;
        let Some(mut state) = receiver.current(self.round) else {
            return;
        };
        let (epoch, expected) = state.expects();
        if batch.offset > expected || (epoch == 0 && batch.offset > 1) {
            receiver.jump(&mut state, batch.epoch, batch.offset);
        }
        let from = state.expects().1;
        if !receiver.take_next(&mut state, batch, late) {
            error!(
                channel = receiver.channel.name.as_str(),
                offset = from,
                "a batch does not fit its own place"
            );
        }
        let recovered = state.expects().1 - from;
        drop(state);
        let link = &receiver.shared.link;
        if late {
            link.metrics.messages_recovered.inc_by(recovered);
        }
        link.hub.make_room();
    }

    /// Messages before this place cannot be had.
    pub(in super::super) fn lose(&self, epoch: u64, next_offset: u64) {
        if let Some(mut state) = self.receiver.current(self.round) {
            self.receiver.jump(&mut state, epoch, next_offset);
        }
    }

    /// Takes note of a batch that lies before the feed's end in the history: whether it was received
    /// at all. If not, another server has given out the same offsets.
    pub(in super::super) fn compare(&self, payload: Bytes) {
        let Payload::Batch(batch) = Payload::decode(payload) else {
            return;
        };
        if let Some(mut state) = self.receiver.current(self.round)
            && state.expects().0 == batch.epoch
        {
            state.rewound |= state.known.shows_rewind(Placed::of(&batch));
        }
    }

    /// Whether this history has been found to have gone on from before its end.
    pub(in super::super) fn is_rewound(&self) -> bool {
        self.receiver
            .current(self.round)
            .is_some_and(|state| state.rewound)
    }

    /// It has been ended for that.
    pub(in super::super) fn abandoned(&self) {
        if let Some(mut state) = self.receiver.current(self.round) {
            state.rewound = false;
        }
    }

    /// Warns of entries that were left out because nobody can read them. The messages that should
    /// have been there were counted as lost.
    pub(in super::super) fn warn_of_unreadable(&self, entries: u64) {
        let name = &self.receiver.channel.name;
        let warnings = &self.receiver.shared.warnings;
        if entries > 0 && warnings.allows(Trouble::Unreadable, name) {
            warn!(
                channel = name.as_str(),
                entries, "a history in redis has entries that are none of ours"
            );
        }
    }
}

impl Receiver {
    /// Goes on at another place of the history, or in another history, and marks the gap.
    fn jump(&self, state: &mut State, epoch: u64, next_offset: u64) {
        let (before, expected) = state.expects();
        state.known.from = next_offset;
        if before != epoch {
            state.left = before;
            state.rewound = false;
        }
        // 1. In the same history, and in a channel's first one, offsets show how much is missing.
        let is_counted = before == epoch || (before == 0 && state.was_live);
        state.writer.jump(epoch, next_offset);
        if is_counted {
            self.missed(state, next_offset.saturating_sub(expected));
        } else if before != 0 {
            // 2. Nobody knows how much of an old history was never received here: sequences of
            // publishers may tell, see `take_next`.
            state.writer.mark_gap(Missed::Unknown);
        }
    }
}
