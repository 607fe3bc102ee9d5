//! What a receiver knows of the publishers of its channel: the newest batch of each. So it takes a
//! batch that was published twice only once, and finds out where messages are missing or where Redis
//! has given offsets out again.

use std::collections::HashMap;

use super::super::super::envelope::Envelope;
use crate::message::{PublisherId, Sequence};

/// Publishers remembered of one channel. Restarted nodes have new ids, so old ones pile up on a
/// channel that lives long.
const PUBLISHERS: usize = 1024;

/// The newest batch of each publisher.
#[derive(Debug, Default)]
pub(super) struct Known {
    newest: HashMap<PublisherId, Placed>,
    /// Lowest offset we can judge. Below it we skipped a range (late batches may still arrive) or
    /// forgot its publishers.
    pub(super) from: u64,
}

/// A batch without its messages: who published it, and where its history has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) publisher_id: PublisherId,
    /// Its last message among those of its publisher.
    pub(super) last: Sequence,
    /// How many messages its publisher has published, these included.
    pub(super) published: u64,
    /// The epoch of its history; 0 if its publisher's node keeps no history.
    pub(super) epoch: u64,
    /// The offset of its first message.
    pub(super) offset: u64,
}

/// How a batch relates to the newest one of the same publisher that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// It was received, or a later one was.
    Received,
    /// It comes later, after so many messages that were not received.
    Later { missed: u64, same_epoch: bool },
    /// Nothing of its publisher was received.
    Unknown,
}

impl Known {
    /// Compares a batch with the newest one of its publisher.
    pub(super) fn relation(&self, batch: &Envelope) -> Relation {
        match self.newest.get(&batch.publisher_id()) {
            None => Relation::Unknown,
            Some(newest) if batch.last() <= newest.last => Relation::Received,
            Some(newest) => Relation::Later {
                missed: batch.published_before().saturating_sub(newest.published),
                same_epoch: newest.epoch == batch.epoch,
            },
        }
    }

    /// Whether any batch was received that has an offset: those of nodes without history have none.
    pub(super) fn has_offsets(&self) -> bool {
        self.newest.values().any(|newest| newest.epoch != 0)
    }

    /// Takes note of a batch that was received.
    pub(super) fn record(&mut self, batch: Placed) {
        if self.newest.len() >= PUBLISHERS && !self.newest.contains_key(&batch.publisher_id) {
            self.newest.clear();
            self.from = batch.offset;
        }
        self.newest.insert(batch.publisher_id, batch);
    }

    /// The newest batch of its publisher was published again, because Redis had lost it: it has
    /// another offset now.
    pub(super) fn moved(&mut self, batch: Placed) {
        if let Some(newest) = self.newest.get_mut(&batch.publisher_id)
            && newest.last == batch.last
        {
            newest.offset = batch.offset;
        }
    }

    /// Whether a batch shows that Redis has given its offset out again. Something was received at
    /// that offset: it should have been this batch. One that was received at another offset is no
    /// proof, because a publisher that gets no answer from a Redis that has lost its batch publishes
    /// it again.
    pub(super) fn shows_rewind(&self, batch: Placed) -> bool {
        let was_received = self.newest.get(&batch.publisher_id).is_some_and(|newest| {
            newest.epoch != batch.epoch
                || newest.last > batch.last
                || (newest.last == batch.last && newest.offset == batch.offset)
        });
        !was_received && self.has_offsets() && batch.offset >= self.from
    }
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
        let mut known = Known::default();
        known.record(placed(1, 5, 10));
        known.record(placed(2, 3, 15));
        for (publisher, last, offset, rewound) in [
            (1, 5, 10, false), // as it was received
            (1, 4, 9, false),  // before that
            (1, 6, 11, true),  // never received
            (3, 1, 11, true),  // never received of its publisher
            (1, 5, 12, true),  // received, but elsewhere
        ] {
            assert_eq!(
                known.shows_rewind(placed(publisher, last, offset)),
                rewound,
                "{publisher} {last} at {offset}"
            );
        }
    }
}
