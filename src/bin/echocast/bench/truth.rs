//! What one connection has heard, checked message by message: nothing missing, nothing twice, each
//! publisher's messages in their order, and a mark of the whole sequence by which connections are
//! compared. What is lost is known only at the end, when it has not come late either.

use std::ops::Range;

/// Of the gaps in what a connection heard, this many are remembered, to tell messages that come
/// late from ones that come again. What comes later than that counts as again.
const GAPS: usize = 1024;

/// How a message that was heard stands to the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// In order, or after a gap: what is missing may still come.
    New,
    /// For the first time, but after one that was said later.
    Late,
    /// It had been heard before.
    Again,
}

#[derive(Debug)]
pub(super) struct Truth {
    /// For each publisher the number that comes next.
    next: Box<[u32]>,
    /// Publisher and the numbers that were left out, oldest first.
    gaps: Vec<(u32, Range<u32>)>,
    /// A hash of all that was heard, in its order.
    order: u64,
    /// Messages heard, each counted once.
    heard: u64,
}

impl Truth {
    pub(super) fn new(publishers: usize) -> Self {
        Self {
            next: vec![0; publishers].into(),
            gaps: Vec::new(),
            order: 0,
            heard: 0,
        }
    }

    /// Takes note of a message that was really said by one of the publishers.
    #[inline]
    pub(super) fn hear(&mut self, publisher: u32, number: u32) -> Heard {
        let next = &mut self.next[publisher as usize];
        // The mixing of FxHash: one step a message, and every message's place counts.
        let message = u64::from(publisher) << 32 | u64::from(number);
        self.order = (self.order.rotate_left(5) ^ message).wrapping_mul(0x517c_c1b7_2722_0a95);
        let heard = if number >= *next {
            let expected = std::mem::replace(next, number + 1);
            if number > expected {
                self.remember(publisher, expected..number);
            }
            Heard::New
        } else if self.fill(publisher, number) {
            Heard::Late
        } else {
            return Heard::Again;
        };
        self.heard += 1;
        heard
    }

    /// How many different messages were heard.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Equal for connections that heard the same in the same order.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    #[cold]
    fn remember(&mut self, publisher: u32, missing: Range<u32>) {
        if self.gaps.len() == GAPS {
            self.gaps.remove(0);
        }
        self.gaps.push((publisher, missing));
    }

    /// Whether the message was missing until now.
    #[cold]
    fn fill(&mut self, publisher: u32, number: u32) -> bool {
        let found = self
            .gaps
            .iter()
            .position(|(who, missing)| *who == publisher && missing.contains(&number));
        let Some(at) = found else { return false };
        let missing = self.gaps.remove(at).1;
        for rest in [missing.start..number, number + 1..missing.end] {
            if !rest.is_empty() {
                self.remember(publisher, rest);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(messages: &[(u32, u32)]) -> (Truth, Vec<Heard>) {
        let mut truth = Truth::new(2);
        let heard = messages
            .iter()
            .map(|&(publisher, number)| truth.hear(publisher, number));
        let heard = heard.collect();
        (truth, heard)
    }

    #[test]
    fn everything_once_and_in_order_is_new() {
        let (truth, judged) = heard(&[(0, 0), (1, 0), (1, 1), (0, 1)]);
        assert_eq!((truth.heard(), judged), (4, vec![Heard::New; 4]));
    }

    #[test]
    fn a_repeated_message_is_not_counted_twice() {
        let (truth, judged) = heard(&[(0, 0), (0, 1), (0, 0), (0, 1)]);
        assert_eq!(
            (truth.heard(), &judged[2..]),
            (2, &[Heard::Again, Heard::Again][..])
        );
    }

    #[test]
    fn what_fills_a_gap_is_late_and_then_again() {
        let (truth, judged) = heard(&[
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
        use Heard::{Again, Late, New};
        assert_eq!(
            judged,
            [New, New, Late, New, Again, Late, Late, Late, Again]
        );
        assert_eq!(truth.heard(), 7);
    }

    #[test]
    fn a_lost_message_leaves_the_count_short() {
        assert_eq!(heard(&[(0, 0), (0, 2), (0, 3)]).0.heard(), 3);
    }

    #[test]
    fn two_interleavings_of_two_publishers_are_two_orders() {
        let order = |messages| heard(messages).0.order();
        assert_eq!(order(&[(0, 0), (1, 0)]), order(&[(0, 0), (1, 0)]));
        assert_ne!(order(&[(0, 0), (1, 0)]), order(&[(1, 0), (0, 0)]));
    }

    #[test]
    fn only_so_many_gaps_are_remembered() {
        let mut truth = Truth::new(1);
        for number in 0..=2 * GAPS as u32 + 2 {
            truth.hear(0, 2 * number);
        }
        assert_eq!(truth.gaps.len(), GAPS);
        assert_eq!(truth.hear(0, 1), Heard::Again);
    }
}
