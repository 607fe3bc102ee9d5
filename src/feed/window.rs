//! The content of a feed: batches in order, and the slots of its readers. All of it is behind the
//! feed's lock; the feed decides who may change what and when.
//!
//! Batches have contiguous positions. Readers name them by position, so that trimming the front
//! changes nothing for a reader that is further ahead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::Retention;
use crate::message::{Batch, Sequence};

/// Position of the first batch that is appended: as many may be prepended.
pub(super) const FIRST: u64 = 1 << 48;

#[derive(Debug)]
pub(super) struct Window {
    pub(super) batches: VecDeque<Arc<Batch>>,
    /// Position of the front batch.
    pub(super) first: u64,
    /// The lowest position that any batch ever had. No other batch gets it again.
    pub(super) lowest: u64,
    /// The batch before the window cannot be prepended, and so none before that.
    pub(super) sealed: bool,
    /// Offset of the oldest message in the broker's history when everything between it and the
    /// window was read; 0 if unknown.
    pub(super) history_from: u64,
    /// Bytes of all batches with their encodings.
    pub(super) bytes: usize,
    /// Messages in all batches.
    pub(super) messages: usize,
    /// Bytes of these messages as raw frames, which retention by bytes counts. Other encodings do
    /// not make a history shorter.
    pub(super) raw_bytes: usize,
    /// The history that the offsets belong to; 0 until one is known.
    pub(super) epoch: u64,
    /// The offset of the message that comes next; offsets begin at 1.
    pub(super) next_offset: u64,
    /// The newest message published by this node that was received back.
    pub(super) confirmed: Sequence,
    /// When the newest batch was appended.
    pub(super) appended: Instant,
    /// The lowest position of any reader at the last walk: no reader needs the batches before it.
    pub(super) needed_from: u64,
    /// Walks that visit readers at the moment.
    pub(super) walks: usize,
    /// The lowest position of readers that were added since the first of these walks began.
    pub(super) joined_from: u64,
    /// Bytes appended since all readers last had their turn.
    pub(super) unsettled: usize,
    /// Readers that were woken and have not had their turn since.
    pub(super) woken: usize,
    pub(super) readers: Slab<ReaderSlot>,
}

/// One reader, or one group of readers that wait together.
#[derive(Debug)]
pub(super) struct ReaderSlot {
    pub(super) waker: Waker,
    pub(super) state: ReaderState,
    /// The first batch that it may still need.
    pub(super) position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderState {
    /// Has read everything. The next batch wakes it.
    Waiting,
    /// Was woken and has not returned yet.
    Woken,
    /// Has returned and not read everything, because it is busy or its socket is full. It is woken
    /// only if it lags out.
    Behind,
    /// Knows that it lagged out. Nothing wakes it.
    Lagged,
}

/// Where a reader starts: in a batch, behind its first messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartPosition {
    /// Position of the batch.
    pub(super) batch: u64,
    /// Messages of that batch to leave out.
    pub(super) skip: usize,
}

impl StartPosition {
    pub(super) fn at_batch(batch: u64) -> Self {
        Self { batch, skip: 0 }
    }
}

impl Window {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            batches: VecDeque::new(),
            first: FIRST,
            lowest: FIRST,
            sealed: false,
            history_from: 0,
            bytes: 0,
            messages: 0,
            raw_bytes: 0,
            epoch,
            next_offset: 1,
            confirmed: Sequence::default(),
            appended: Instant::now(),
            needed_from: 0,
            walks: 0,
            joined_from: u64::MAX,
            unsettled: 0,
            woken: 0,
            readers: Slab::new(),
        }
    }

    /// Position of the batch that comes next.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// This message was received back, or need not be waited for. Returns whether that was unknown.
    pub(super) fn confirm(&mut self, sequence: Sequence) -> bool {
        let is_newer = sequence > self.confirmed;
        self.confirmed = self.confirmed.max(sequence);
        is_newer
    }

    /// Adds a reader at a position; returns its key.
    pub(super) fn add_reader(&mut self, waker: Waker, state: ReaderState, position: u64) -> usize {
        // A walk may be past the key that this reader gets, so its position is noted here.
        self.joined_from = self.joined_from.min(position);
        self.needed_from = self.needed_from.min(position);
        self.readers.insert(ReaderSlot {
            waker,
            state,
            position,
        })
    }

    /// Changes a reader's state; returns the state before.
    #[inline]
    pub(super) fn change(&mut self, reader: usize, state: ReaderState) -> ReaderState {
        std::mem::replace(&mut self.readers[reader].state, state)
    }

    /// Drops old batches: those that no reader and no replay needs, and as many as are over the
    /// bound of bytes.
    pub(super) fn trim(&mut self, retention: &Retention) {
        // The newest batch always stays: readers may not have seen it.
        while self.batches.len() > 1 && self.may_drop_oldest(retention) {
            self.drop_oldest();
        }
    }

    #[inline]
    fn may_drop_oldest(&self, retention: &Retention) -> bool {
        if self.bytes > retention.bytes {
            return true;
        }
        let Some(oldest) = self.batches.front() else {
            return false;
        };
        let is_unneeded = self.first < self.needed_from;
        let rest_is_enough = self.messages - oldest.len() >= retention.messages
            || self.raw_bytes - oldest.raw().len() >= retention.history_bytes;
        is_unneeded && rest_is_enough
    }

    /// Whether the whole window is too old to be replayed. If it is empty, the broker's history
    /// decides.
    pub(super) fn is_expired(&self, ttl: Duration) -> bool {
        !self.batches.is_empty() && self.appended.elapsed() >= ttl
    }

    /// Drops the oldest batches until the rest has at most `bytes`, but none from position `keep`
    /// on.
    pub(super) fn shorten(&mut self, bytes: usize, keep: u64) {
        while self.bytes > bytes && self.first < keep && !self.batches.is_empty() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.messages -= oldest.len();
            self.raw_bytes -= oldest.raw().len();
            self.bytes -= oldest.weight();
            self.first += 1;
        }
    }

    /// Where the newest `count` messages begin.
    pub(super) fn newest(&self, count: usize) -> StartPosition {
        let mut left = count;
        for (index, batch) in self.batches.iter().enumerate().rev() {
            if batch.len() > left {
                return self.behind(index, batch.len() - left);
            }
            left -= batch.len();
        }
        StartPosition::at_batch(self.first)
    }

    /// Behind the first `skip` messages of a batch.
    fn behind(&self, index: usize, skip: usize) -> StartPosition {
        let batch = self.first + index as u64;
        if skip == self.batches[index].len() {
            StartPosition::at_batch(batch + 1)
        } else {
            StartPosition { batch, skip }
        }
    }

    /// Where an offset begins, if the window holds its message or the one right before it. Batches
    /// without offsets of their own that came right before it are left out.
    pub(super) fn after(&self, epoch: u64, offset: u64) -> Option<StartPosition> {
        let holds = |batch: &Batch| {
            batch.gap.is_none()
                && batch.epoch == epoch
                && (batch.offset..=batch.end()).contains(&offset)
        };
        // The newest first: a batch without offsets of its own begins and ends at the same offset.
        let index = self.batches.iter().rposition(|batch| holds(batch))?;
        let batch = &self.batches[index];
        // Its span instead of its length, which differ in such a batch.
        Some(if offset == batch.end() {
            StartPosition::at_batch(self.first + index as u64 + 1)
        } else {
            self.behind(index, (offset - batch.offset) as usize)
        })
    }

    /// The offset of the first message of the newest history from `offset` on.
    pub(super) fn kept_from(&self, offset: u64) -> u64 {
        let of_this_history = |batch: &&Arc<Batch>| {
            batch.epoch == self.epoch && batch.gap.is_none() && batch.offset >= offset
        };
        let first = self.batches.iter().find(of_this_history);
        first.map_or(self.next_offset, |batch| batch.offset)
    }

    pub(super) fn has_gap_from(&self, position: u64) -> bool {
        let index = (position - self.first) as usize;
        self.batches.range(index..).any(|batch| batch.gap.is_some())
    }
}
