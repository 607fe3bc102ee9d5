//! Groups: readers on one thread that have read everything and wait together, in one reader slot.
//! A batch wakes the group once and is taken once for all of them, under one lock, however many
//! they are.
//!
//! The readers of a group have their turns in rounds, from [`Group::begin`] to [`Group::settle`].
//! Until then the writer counts the group as a reader that was woken, and trims nothing that it
//! may need. A reader that cannot keep up leaves the group and reads for itself.

use std::sync::Arc;
use std::task::Waker;

use super::Feed;
use super::window::{ReaderState, Window};
use crate::message::{Batch, Sequence};

/// Readers that wait together. A [`super::Cursor`] joins by
/// [`super::Cursor::take_or_join_group`]. That must happen after the group was made and not while
/// it takes: otherwise the cursor would wait at a position that the group has passed.
#[derive(Debug)]
pub(crate) struct Group {
    feed: Arc<Feed>,
    reader: usize,
    /// Position of the first batch of `batches`.
    first: u64,
    batches: Vec<Arc<Batch>>,
    /// Where the batches ended when the round began. Some readers have not had their turn since
    /// later ones were taken.
    shown: u64,
    /// The newest message of this node that was known to be received back when the round began.
    confirmed: Sequence,
}

/// Batches that a group has taken, and some of its readers have not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupBatches<'a> {
    first: u64,
    batches: &'a [Arc<Batch>],
}

impl Group {
    /// A group that receives everything from now on.
    pub(crate) fn new(feed: &Arc<Feed>, waker: Waker) -> Self {
        let mut window = feed.lock();
        let first = window.end();
        let reader = window.add_reader(waker, ReaderState::Waiting, first);
        Self {
            feed: feed.clone(),
            reader,
            first,
            batches: Vec::new(),
            shown: first,
            confirmed: Sequence::default(),
        }
    }

    /// The batches of this round.
    #[inline]
    pub(crate) fn batches(&self) -> GroupBatches<'_> {
        GroupBatches {
            first: self.first,
            batches: &self.batches,
        }
    }

    /// Begins a round: takes new batches. If the writer is ahead, it waits for [`Self::settle`].
    pub(crate) fn begin(&mut self) {
        let Self {
            feed,
            reader,
            first,
            batches,
            confirmed,
            ..
        } = self;
        let mut window = feed.lock();
        *confirmed = window.confirmed;
        take(&mut window, *reader, first, batches);
        drop(window);
        self.shown = self.batches().end();
    }

    /// Takes batches that came during the round, for readers that have not had their turn yet.
    pub(crate) fn take(&mut self) {
        let mut window = self.feed.lock();
        take(&mut window, self.reader, &mut self.first, &mut self.batches);
    }

    /// Ends a round: every reader has had its turn. Returns whether another round has to follow.
    pub(crate) fn settle(&mut self) -> bool {
        // All readers have been shown these.
        let shown = self.shown.saturating_sub(self.first) as usize;
        self.batches.drain(..shown);
        self.first = self.first.max(self.shown);

        let mut window = self.feed.lock();
        let more = self.shown < window.end() || self.confirmed < window.confirmed;
        window.readers[self.reader].position = self.first;
        // The next round may begin without a wake, so it counts as woken already.
        let state = if more {
            ReaderState::Woken
        } else {
            ReaderState::Waiting
        };
        let before = window.change(self.reader, state);
        window.woken += usize::from(more);
        if before == ReaderState::Woken {
            self.feed.had_its_turn(&mut window);
        }
        more
    }
}

/// Adds new batches to those that begin at position `first`.
#[inline]
fn take(window: &mut Window, reader: usize, first: &mut u64, batches: &mut Vec<Arc<Batch>>) {
    // Drop batches that the feed has trimmed, so that a long round holds no more than the feed. A
    // reader that has not read them has lagged.
    let trimmed = window.first.saturating_sub(*first);
    let held = trimmed.min(batches.len() as u64);
    batches.drain(..held as usize);
    *first = window.first.max(*first);
    // Then add the batches behind the ones it holds.
    let index = *first - window.first + batches.len() as u64;
    batches.extend(window.batches.range(index as usize..).cloned());
    window.readers[reader].position = *first;
}

impl Drop for Group {
    fn drop(&mut self) {
        self.feed.remove_reader(&mut self.feed.lock(), self.reader);
    }
}

impl<'a> GroupBatches<'a> {
    /// The position behind them: a reader there has read all of them.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// The batches from a position on; `None` if some from there on were dropped.
    #[inline]
    pub(super) fn since(self, position: u64) -> Option<&'a [Arc<Batch>]> {
        let read = position.checked_sub(self.first)?;
        Some(self.batches.get(read as usize..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
