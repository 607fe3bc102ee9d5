//! What a feed holds: batches in order, and the seats of its readers. All of it is behind the
//! feed's lock; who may do what when is the feed's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::Retention;
use crate::message::{Batch, Sequence};

/// Sequence number of the first batch that is appended: as many may be prepended.
pub(super) const FIRST: u64 = 1 << 48;

#[derive(Debug)]
pub(super) struct Window {
    pub(super) batches: VecDeque<Arc<Batch>>,
    /// Sequence number of the front batch; batches are numbered in order, and there is room before
    /// the first.
    pub(super) first: u64,
    /// The lowest sequence number that was ever given, which none gets again.
    pub(super) lowest: u64,
    /// The batch before the window cannot be prepended, and so none before that.
    pub(super) sealed: bool,
    /// Offset of the oldest message that the broker's history had when all of it before the window
    /// was read; 0 if unknown.
    pub(super) history_from: u64,
    pub(super) bytes: usize,
    pub(super) messages: usize,
    /// Bytes of these messages as raw frames: what retention by bytes counts, whatever else they
    /// are encoded into.
    pub(super) raw_bytes: usize,
    /// Which history the offsets belong to; 0 until one is known.
    pub(super) epoch: u64,
    /// The offset of the message that comes next; offsets begin at 1.
    pub(super) next_offset: u64,
    /// The newest message published by this node that has come back.
    pub(super) confirmed: Sequence,
    pub(super) appended: Instant,
    /// The least position of any reader when they were last visited: what lies before it nobody
    /// needs.
    pub(super) needed_from: u64,
    /// Walks that are visiting readers at the moment.
    pub(super) walks: usize,
    /// The least position of readers that came since the first of these began.
    pub(super) joined_from: u64,
    /// Bytes appended since all readers last had their turn.
    pub(super) unsettled: usize,
    /// Readers that were woken and have not had their turn since.
    pub(super) woken: usize,
    pub(super) seats: Slab<Seat>,
}

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) waker: Waker,
    pub(super) state: SeatState,
    pub(super) position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatState {
    /// Has seen everything; woken by what comes.
    Waiting,
    /// Woken, and not yet come back.
    Woken,
    /// Has come back and not seen everything: it is busy, or its socket is full. Woken when it lags
    /// out.
    Behind,
    /// Has been told that it lagged out.
    Told,
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
            seats: Slab::new(),
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// This message has come back, or need not be waited for; returns whether that is
    /// news.
    pub(super) fn confirm(&mut self, sequence: Sequence) -> bool {
        let is_news = sequence > self.confirmed;
        self.confirmed = self.confirmed.max(sequence);
        is_news
    }

    /// Gives a reader at a position a seat.
    pub(super) fn sit_down(&mut self, waker: Waker, state: SeatState, position: u64) -> usize {
        self.joined_from = self.joined_from.min(position);
        self.needed_from = self.needed_from.min(position);
        self.seats.insert(Seat {
            waker,
            state,
            position,
        })
    }

    /// Changes a seat's state; returns what it was.
    pub(super) fn change(&mut self, seat: usize, state: SeatState) -> SeatState {
        std::mem::replace(&mut self.seats[seat].state, state)
    }

    pub(super) fn trim(&mut self, retention: &Retention) {
        while let Some(front) = self.batches.front() {
            let replayed = self.messages - front.len() >= retention.messages
                || self.raw_bytes - front.raw().len() >= retention.history_bytes;
            let spare = self.first < self.needed_from && replayed;
            if self.batches.len() == 1 || !(spare || self.bytes > retention.bytes) {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Whether everything here is so old that nothing is replayed. Where nothing is here the
    /// broker's history decides.
    pub(super) fn is_expired(&self, ttl: Duration) -> bool {
        !self.batches.is_empty() && self.appended.elapsed() >= ttl
    }

    /// Drops the oldest batches until the rest holds at most so many bytes, or begins with sequence
    /// number `keep`.
    pub(super) fn shorten(&mut self, upto: usize, keep: u64) {
        while self.bytes > upto && self.first < keep && !self.batches.is_empty() {
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

    /// Sequence number of a batch, and the message in it, with which the newest `count` messages
    /// begin.
    pub(super) fn newest(&self, count: usize) -> (u64, usize) {
        let mut left = count;
        for (index, batch) in self.batches.iter().enumerate().rev() {
            if batch.len() > left {
                let at = self.first + index as u64;
                return if left == 0 {
                    (at + 1, 0)
                } else {
                    (at, batch.len() - left)
                };
            }
            left -= batch.len();
        }
        (self.first, 0)
    }

    /// Sequence number of a batch, and the message in it, with which an offset begins, if it or
    /// what is right before it is here. What has no offset of its own and came right before it is
    /// left out.
    pub(super) fn after(&self, epoch: u64, offset: u64) -> Option<(u64, usize)> {
        let holds = |batch: &Arc<Batch>| {
            batch.epoch == epoch && (batch.offset..=batch.end()).contains(&offset)
        };
        let newest_first = self.batches.iter().enumerate().rev();
        let (index, batch) = newest_first
            .into_iter()
            .find(|(_, batch)| holds(batch) && batch.gap.is_none())?;
        let at = self.first + index as u64;
        Some(if offset == batch.end() {
            (at + 1, 0)
        } else {
            (at, (offset - batch.offset) as usize)
        })
    }

    /// The offset of the first message of the newest history from `offset` on.
    pub(super) fn kept_from(&self, offset: u64) -> u64 {
        let mut batches = self
            .batches
            .iter()
            .filter(|batch| batch.epoch == self.epoch && batch.gap.is_none());
        batches
            .find(|batch| batch.offset >= offset)
            .map_or(self.next_offset, |batch| batch.offset)
    }

    pub(super) fn has_gap_from(&self, position: u64) -> bool {
        self.batches
            .range((position - self.first) as usize..)
            .any(|batch| batch.gap.is_some())
    }
}
