//! A node's knowledge of one channel as it receives it: the newest batch of each publisher, and the
//! backlog while it catches up. The lock of all states protects it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::super::envelope::Envelope;
use crate::budget::{Budget, Charge, Part};
use crate::message::{PublisherId, Sequence};

/// Nodes remembered of one channel. Restarted nodes have new numbers, so old ones pile up on a
/// channel that lives long.
const NODES: usize = 1024;

/// Bytes held back for one channel while it catches up. What is beyond is dropped, and read from
/// the history instead.
const BACKLOG_BYTES: usize = 4 * 1024 * 1024;

/// As many of them are held back even if the memory budget has no room: a channel that drops each
/// message could never catch up.
const LEAST_BACKLOG: usize = 64 * 1024;

/// After Redis has said that it does not hold a batch, time in which batches that do not fit are
/// dropped without asking: a channel that is flooded with them must neither be held back all the
/// time nor keep Redis busy.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// Batches that were dropped without asking, and are judged when Redis is asked. In a flood, those
/// beyond count as foreign at once.
pub(super) const MOST_UNJUDGED: usize = 256;

/// How this node hears one channel.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The newest batch heard, by publishing node.
    pub(super) heard: HashMap<PublisherId, Newest>,
    /// Payloads that wait until the channel has caught up; `None` if it has.
    pub(super) backlog: Option<Backlog>,
    /// Tells the time that it began to hold back from all others.
    pub(super) round: u64,
    /// It has been live: what is missing from then on was missed, even if there was no history yet.
    pub(super) was_live: bool,
    /// Where what is known of the history that is being heard begins: before it something was
    /// jumped over, which may still come, or those who said it are not remembered.
    pub(super) known_from: u64,
    /// The epoch of the history that was heard before this one.
    pub(super) left: u64,
    /// An offset has been given out twice: Redis has lost the end of this history, and others have
    /// gone on with it.
    pub(super) rewound: bool,
    /// Redis held the feed's history when this subscription began: what has come since is all there
    /// was.
    pub(super) is_whole: bool,
    /// Payloads were dropped unread since the channel was last live: the first that is held back
    /// may not be the first of its history.
    pub(super) has_dropped: bool,
    /// When Redis last said that it does not hold a batch that came.
    pub(super) judged: Option<Instant>,
    /// Redis will be asked again, because batches were dropped without that since.
    pub(super) doubts: bool,
    /// Those batches. The history may have them: then they were recovered from there.
    pub(super) unjudged: Vec<Unjudged>,
}

/// A batch that was dropped without asking Redis whether it holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unjudged {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) messages: u64,
}

impl Unjudged {
    /// The offset of its last message.
    pub(super) fn last_offset(self) -> u64 {
        self.offset + self.messages - 1
    }
}

/// A batch without its messages: who published it, and where its history has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) publisher_id: PublisherId,
    /// Its last message among those of its publisher.
    pub(super) last: Sequence,
    /// How many messages its publisher has published, these included.
    pub(super) published: u64,
    /// 0 if its publisher's node keeps no history.
    pub(super) epoch: u64,
    /// The offset of its first message.
    pub(super) offset: u64,
}

impl Placed {
    pub(super) fn of(batch: &Envelope) -> Self {
        Self {
            publisher_id: batch.publisher_id(),
            last: batch.last(),
            published: batch.published_before() + batch.messages.len() as u64,
            epoch: batch.epoch,
            offset: batch.offset,
        }
    }
}

/// The newest batch that was heard from a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    /// 0 if its node keeps no history.
    pub(super) epoch: u64,
    /// Its last message.
    pub(super) last: Sequence,
    /// How many messages the publisher had published then.
    pub(super) published: u64,
    /// The offset of its first message.
    offset: u64,
}

impl Newest {
    /// The batch that ends with this message has another offset now.
    pub(super) fn moved(&mut self, last: Sequence, offset: u64) {
        if self.last == last {
            self.offset = offset;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) payloads: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) overflowed: bool,
    /// So many of the payloads came before Redis was last asked for its newest message: what of
    /// these is not in the history then never was, or is no more.
    pub(super) asked: usize,
    charge: Option<Charge>,
}

impl State {
    /// Begins to hold back; returns the round's number.
    pub(super) fn hold(&mut self, rounds: &AtomicU64) -> u64 {
        self.backlog = Some(Backlog::default());
        self.round = rounds.fetch_add(1, Relaxed) + 1;
        self.round
    }

    /// When Redis may be asked again about batches that do not fit; `None` if now.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.judged
            .map(|at| at + DOUBT_PAUSE)
            .filter(|at| *at > Instant::now())
    }

    /// Whether a batch that does not fit is only late: it is of a history that has been given up, or
    /// was received before. If it was not, its publisher's next sequence shows that.
    pub(super) fn is_late(&self, batch: &Envelope) -> bool {
        (batch.epoch != 0 && batch.epoch == self.left) || self.has_heard(batch)
    }

    /// Whether this very batch, or a later one of its node, was heard before.
    fn has_heard(&self, batch: &Envelope) -> bool {
        self.heard
            .get(&batch.publisher_id())
            .is_some_and(|newest| newest.last >= batch.last())
    }

    /// Takes note of a batch whose offset was heard before: it should have been this batch. One
    /// that was heard at another offset was published again, because its publisher got no answer
    /// from a Redis that has lost it.
    pub(super) fn repeated(&mut self, batch: Placed) {
        let heard = self.heard.get(&batch.publisher_id).is_some_and(|newest| {
            newest.epoch != batch.epoch
                || newest.last > batch.last
                || (newest.last == batch.last && newest.offset == batch.offset)
        });
        self.rewound |= !heard && self.knows_offsets() && batch.offset >= self.known_from;
    }

    /// Whether any batch has been heard that has offsets: those of nodes without history have none.
    pub(super) fn knows_offsets(&self) -> bool {
        self.heard.values().any(|newest| newest.epoch != 0)
    }

    /// Remembers the newest of a node, and where it is.
    pub(super) fn hear(&mut self, batch: Placed) {
        if self.heard.len() >= NODES && !self.heard.contains_key(&batch.publisher_id) {
            self.heard.clear();
            self.known_from = batch.offset;
        }
        self.heard.insert(
            batch.publisher_id,
            Newest {
                epoch: batch.epoch,
                last: batch.last,
                published: batch.published,
                offset: batch.offset,
            },
        );
    }
}

impl Backlog {
    /// Adds a payload, or drops all if they are too many or the memory budget has no room for them.
    pub(super) fn push(&mut self, payload: Bytes, budget: &Arc<Budget>) {
        self.bytes += payload.len();
        let charge = self
            .charge
            .get_or_insert_with(|| budget.charge(Part::Pages, 0));
        charge.grow(payload.len());
        if self.bytes > BACKLOG_BYTES || (self.bytes > LEAST_BACKLOG && !charge.has_room()) {
            *self = Self {
                overflowed: true,
                ..Self::default()
            };
        } else {
            self.payloads.push(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(publisher: u64, last: u64, offset: u64) -> Placed {
        Placed {
            publisher_id: PublisherId(publisher),
            last: Sequence(last),
            published: last,
            epoch: 7,
            offset,
        }
    }

    #[test]
    fn a_batch_at_the_place_of_another_shows_that_the_history_went_on_from_before_its_end() {
        let heard = || {
            let mut state = State::default();
            state.hear(placed(1, 5, 10));
            state.hear(placed(2, 3, 15));
            state
        };
        for (publisher, last, offset, rewound) in [
            (1, 5, 10, false), // as it was heard
            (1, 4, 9, false),  // before that
            (1, 6, 11, true),  // never heard
            (3, 1, 11, true),  // never heard of its node
            (1, 5, 12, true),  // heard, but elsewhere
        ] {
            let mut state = heard();
            state.repeated(placed(publisher, last, offset));
            assert_eq!(state.rewound, rewound, "{publisher} {last} at {offset}");
        }
    }
}
