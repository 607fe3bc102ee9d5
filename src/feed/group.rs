//! Groups: readers on one thread that have seen everything and wait together, in one seat. A batch
//! wakes the group and is taken once for all of them, under one lock, however many they are.

use std::sync::Arc;
use std::task::Waker;

use super::{Feed, SeatState, Window};
use crate::message::{Batch, Sequence};

/// Readers that wait together. A [`super::Cursor`] joins them by [`super::Cursor::take_or_join_group`],
/// which must not happen before the group exists nor at the same time as it takes: then it never
/// rests behind the group.
///
/// Its readers have their turns in rounds, from [`Self::begin`] to [`Self::settle`].
#[derive(Debug)]
pub struct Group {
    feed: Arc<Feed>,
    seat: usize,
    /// Sequence number of the first batch of `batches`.
    first: u64,
    batches: Vec<Arc<Batch>>,
    /// Where they ended when the round began: what came later some of its readers have not been
    /// shown.
    shown: u64,
    /// The newest message of this node that was known to have come back then.
    confirmed: Sequence,
}

/// What a group has taken and its readers have perhaps not seen.
#[derive(Clone, Copy, Debug)]
pub struct GroupBatches<'a> {
    first: u64,
    batches: &'a [Arc<Batch>],
}

impl Group {
    /// A group that hears what comes from now on.
    pub fn new(feed: &Arc<Feed>, waker: Waker) -> Self {
        let mut window = feed.lock();
        let first = window.end();
        let seat = window.sit_down(waker, SeatState::Waiting, first);
        Self {
            feed: feed.clone(),
            seat,
            first,
            batches: Vec::new(),
            shown: first,
            confirmed: Sequence::default(),
        }
    }

    /// What it has taken.
    pub fn batches(&self) -> GroupBatches<'_> {
        GroupBatches {
            first: self.first,
            batches: &self.batches,
        }
    }

    /// Takes what has come. The writer waits for [`Self::settle`] if it must.
    pub fn begin(&mut self) {
        let Self {
            feed,
            seat,
            first,
            batches,
            confirmed,
            ..
        } = self;
        let mut window = feed.lock();
        *confirmed = window.confirmed;
        take(&mut window, *seat, first, batches);
        drop(window);
        self.shown = self.batches().end();
    }

    /// Takes what has come meanwhile, for those who have not had their turn.
    pub fn take(&mut self) {
        take(
            &mut self.feed.lock(),
            self.seat,
            &mut self.first,
            &mut self.batches,
        );
    }

    /// Its readers have had their turn; returns whether there is more for some of them.
    pub fn settle(&mut self) -> bool {
        self.batches
            .drain(..self.shown.saturating_sub(self.first) as usize);
        self.first = self.first.max(self.shown);
        let mut window = self.feed.lock();
        let more = self.shown < window.end() || self.confirmed < window.confirmed;
        window.seats[self.seat].position = self.first;
        let before = window.change(
            self.seat,
            if more {
                SeatState::Woken
            } else {
                SeatState::Waiting
            },
        );
        window.woken += usize::from(more);
        if before == SeatState::Woken {
            self.feed.had_its_turn(&mut window);
        }
        more
    }
}

/// Adds what has come to the batches that begin with sequence number `first`.
fn take(window: &mut Window, seat: usize, first: &mut u64, batches: &mut Vec<Arc<Batch>>) {
    // However long a round is, no more is held than in the feed: who has not seen what was pushed
    // out there has lagged.
    let gone = window
        .first
        .saturating_sub(*first)
        .min(batches.len() as u64);
    batches.drain(..gone as usize);
    *first = window.first.max(*first);
    let index = *first - window.first + batches.len() as u64;
    batches.extend(window.batches.range(index as usize..).cloned());
    window.seats[seat].position = *first;
}

impl Drop for Group {
    fn drop(&mut self) {
        self.feed.leave(&mut self.feed.lock(), self.seat);
    }
}

impl<'a> GroupBatches<'a> {
    /// Where they end: whoever is there has seen them.
    pub fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Those from a position on; `None` if some before them are not here.
    pub(super) fn since(self, position: u64) -> Option<&'a [Arc<Batch>]> {
        let seen = position.checked_sub(self.first)?;
        Some(self.batches.get(seen as usize..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
