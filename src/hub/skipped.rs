//! Messages of one publisher that were never published: the broker refused them, or they repeat
//! another one's key. They leave holes among the publisher's sequences, which receivers would
//! otherwise take for messages that they have missed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::lock;
use crate::message::Sequence;

/// Knows how many messages were skipped before any batch that is not settled.
#[derive(Debug, Default)]
pub struct Skipped(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Messages that were skipped before all of `ranges`.
    before: u64,
    /// How many messages were skipped from a sequence on. Neighbours are merged, so there are no
    /// more ranges than batches in the inbox.
    ranges: BTreeMap<Sequence, u64>,
}

impl Skipped {
    /// These messages will not be published.
    pub(crate) fn add(&self, first: Sequence, count: u64) {
        let mut state = lock(&self.0);
        if let Some((start, length)) = state.ranges.range_mut(..first).next_back()
            && start.0 + *length == first.0
        {
            *length += count;
            return;
        }
        state.ranges.insert(first, count);
    }

    /// How many messages before this one were skipped.
    pub(crate) fn before(&self, first: Sequence) -> u64 {
        let state = lock(&self.0);
        state.before
            + state
                .ranges
                .range(..first)
                .map(|(_, count)| count)
                .sum::<u64>()
    }

    /// The batch that begins here is settled, and so are all before it.
    pub(crate) fn settled(&self, first: Sequence) {
        let mut state = lock(&self.0);
        let later = state.ranges.split_off(&first);
        let earlier = std::mem::replace(&mut state.ranges, later);
        state.before += earlier.values().sum::<u64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_before_a_batch_count_for_it() {
        let skipped = Skipped::default();
        skipped.add(Sequence(1), 1);
        // The third waits while the fourth and fifth are refused.
        skipped.add(Sequence(4), 1);
        skipped.add(Sequence(5), 1);
        let before = |first| skipped.before(Sequence(first));
        assert_eq!([1, 2, 3, 4, 6].map(before), [0, 1, 1, 1, 3]);
        skipped.settled(Sequence(3));
        assert_eq!([3, 6].map(before), [1, 3]);
        skipped.settled(Sequence(6));
        assert_eq!(before(7), 3);
    }
}
