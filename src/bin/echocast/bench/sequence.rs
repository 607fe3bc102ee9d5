//! Checks the sequence of messages that one connection receives: nothing lost, nothing duplicated,
//! each publisher's messages in order. A hash of the whole sequence compares connections.
//!
//! Losses are known only at the end, because a missing message may still arrive late.

use std::ops::Range;

/// Gaps that are remembered for a connection, to tell late messages from duplicates. A message that
/// fills an older gap counts as a duplicate.
const MAX_GAPS: usize = 1024;

/// How a received message relates to the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// In order, or after a gap, whose messages may still arrive.
    InOrder,
    /// For the first time, but after a later message of the same publisher.
    Late,
    /// The connection has received it before.
    Duplicate,
}

#[derive(Debug)]
pub(super) struct Sequence {
    /// Number of the next message, for each publisher.
    next: Box<[u32]>,
    /// Oldest first.
    gaps: Vec<Gap>,
    /// A hash of all received messages, in their order.
    order: u64,
    /// Messages received, each counted once.
    received: u64,
}

/// Numbers that were skipped.
#[derive(Debug)]
struct Gap {
    publisher: u32,
    missing: Range<u32>,
}

impl Sequence {
    pub(super) fn new(publishers: usize) -> Self {
        Self {
            next: vec![0; publishers].into(),
            gaps: Vec::new(),
            order: 0,
            received: 0,
        }
    }

    /// Records a message that one of the publishers has really published.
    #[inline]
    pub(super) fn record(&mut self, publisher: u32, number: u32) -> Arrival {
        // Duplicates count, too: a connection that received one has another sequence.
        self.add_to_order(publisher, number);
        let arrival = self.classify(publisher, number);
        if arrival != Arrival::Duplicate {
            self.received += 1;
        }
        arrival
    }

    /// The mixing of FxHash: one step for each message, and its position counts.
    #[inline]
    fn add_to_order(&mut self, publisher: u32, number: u32) {
        let message = u64::from(publisher) << 32 | u64::from(number);
        self.order = (self.order.rotate_left(5) ^ message).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    #[inline]
    fn classify(&mut self, publisher: u32, number: u32) -> Arrival {
        let expected = self.next[publisher as usize];
        if number < expected {
            return self.classify_old(publisher, number);
        }
        if number > expected {
            // These are missing now, and may still arrive late.
            self.remember(publisher, expected..number);
        }
        self.next[publisher as usize] = number + 1;
        Arrival::InOrder
    }

    #[cold]
    fn classify_old(&mut self, publisher: u32, number: u32) -> Arrival {
        if self.fill_gap(publisher, number) {
            Arrival::Late
        } else {
            Arrival::Duplicate
        }
    }

    /// Number of different messages received.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Equal for connections that received the same messages in the same order.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// Remembers a gap, unless it is empty.
    #[cold]
    fn remember(&mut self, publisher: u32, missing: Range<u32>) {
        if missing.is_empty() {
            return;
        }
        // The oldest gap is the least likely to be filled.
        if self.gaps.len() == MAX_GAPS {
            self.gaps.remove(0);
        }
        self.gaps.push(Gap { publisher, missing });
    }

    /// Whether the message was missing until now.
    fn fill_gap(&mut self, publisher: u32, number: u32) -> bool {
        let contains = |gap: &Gap| gap.contains(publisher, number);
        let Some(index) = self.gaps.iter().position(contains) else {
            return false;
        };
        // The message splits the gap in two.
        let missing = self.gaps.remove(index).missing;
        self.remember(publisher, missing.start..number);
        self.remember(publisher, number + 1..missing.end);
        true
    }
}

impl Gap {
    fn contains(&self, publisher: u32, number: u32) -> bool {
        self.publisher == publisher && self.missing.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(messages: &[(u32, u32)]) -> (Sequence, Vec<Arrival>) {
        let mut sequence = Sequence::new(2);
        let arrivals = messages
            .iter()
            .map(|&(publisher, number)| sequence.record(publisher, number))
            .collect();
        (sequence, arrivals)
    }

    #[test]
    fn messages_that_arrive_once_and_in_order_are_in_order() {
        let (sequence, arrivals) = record(&[(0, 0), (1, 0), (1, 1), (0, 1)]);
        assert_eq!(
            (sequence.received(), arrivals),
            (4, vec![Arrival::InOrder; 4])
        );
    }

    #[test]
    fn a_repeated_message_is_not_counted_twice() {
        let (sequence, arrivals) = record(&[(0, 0), (0, 1), (0, 0), (0, 1)]);
        assert_eq!(
            (sequence.received(), &arrivals[2..]),
            (2, &[Arrival::Duplicate, Arrival::Duplicate][..])
        );
    }

    #[test]
    fn a_message_that_fills_a_gap_is_late_and_then_a_duplicate() {
        let (sequence, arrivals) = record(&[
            (0, 0),
            (0, 5),
            (0, 3),
            (1, 0),
            (0, 3),
            (0, 1),
            (0, 4),
            (0, 2),
            (0, 2),
        ]);
        use Arrival::{Duplicate, InOrder, Late};
        assert_eq!(
            arrivals,
            [
                InOrder, InOrder, Late, InOrder, Duplicate, Late, Late, Late, Duplicate
            ]
        );
        assert_eq!(sequence.received(), 7);
    }

    #[test]
    fn a_lost_message_leaves_the_count_short() {
        assert_eq!(record(&[(0, 0), (0, 2), (0, 3)]).0.received(), 3);
    }

    #[test]
    fn two_interleavings_of_two_publishers_are_two_orders() {
        let order = |messages| record(messages).0.order();
        assert_eq!(order(&[(0, 0), (1, 0)]), order(&[(0, 0), (1, 0)]));
        assert_ne!(order(&[(0, 0), (1, 0)]), order(&[(1, 0), (0, 0)]));
    }

    #[test]
    fn only_so_many_gaps_are_remembered() {
        let mut sequence = Sequence::new(1);
        for number in 0..=2 * MAX_GAPS as u32 + 2 {
            sequence.record(0, 2 * number);
        }
        assert_eq!(sequence.gaps.len(), MAX_GAPS);
        assert_eq!(sequence.record(0, 1), Arrival::Duplicate);
    }
}
