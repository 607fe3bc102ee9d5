//! Cursors: where a reader is in a feed, to the byte, and what it takes at a time.

use std::sync::Arc;
use std::task::{Context, Poll};

use slab::Slab;
use smallvec::SmallVec;

use super::{Feed, SeatState, Window};
use crate::message::Batch;

/// Batches one visit takes at most: as many as fit a `writev` beside control frames.
pub const TAKE_BATCHES: usize = 60;

/// Bytes one visit takes at most, so that one reader with a deep backlog does not hold its worker for long.
const TAKE_BYTES: usize = 1024 * 1024;

/// The reader's position has left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

/// One reader's place in a feed, to the byte: a batch may be half written to a socket.
#[derive(Debug)]
pub struct Cursor {
    feed: Arc<Feed>,
    seat: usize,
    /// Sequence number of the current batch: the one to be read next, or being read.
    position: u64,
    /// Offset of the current batch's first message.
    offset: u64,
    /// Bytes of the current batch's raw frames that are already behind.
    sent: usize,
    /// Messages of the current batch that are already behind, or that this reader does not get.
    done: u32,
    /// The batch with which live delivery begins; what lies before it is replay.
    live_from: u64,
    /// The current batch while it is half read, so that its frame can be ended even if the window moves on.
    partial: Option<Arc<Batch>>,
}

/// What one visit took. On the stack of one poll: a waiting reader holds none.
pub type Taken = SmallVec<[Arc<Batch>; TAKE_BATCHES]>;

/// What [`Cursor::advance`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Batches read to their end.
    pub batches: usize,
    /// Messages read to their end.
    pub messages: u64,
}

impl Cursor {
    /// At message `place.1` of batch `place.0`.
    pub(super) fn new(feed: Arc<Feed>, seat: usize, window: &Window, place: (u64, usize)) -> Self {
        let (position, done) = place;
        let current = window.batches.get((position - window.first) as usize);
        let offset = current.map_or(window.next_offset, |batch| batch.offset);
        let sent = current.map_or(0, |batch| batch.frame_start(done));
        let partial = current.filter(|_| sent > 0).cloned();
        Self { feed, seat, position, offset, done: done as u32, live_from: window.end(), sent, partial }
    }

    /// Takes what there is, up to a bound, without moving. When there is nothing, the task is woken by the next append.
    pub fn poll_take(&mut self, context: &mut Context<'_>, taken: &mut Taken) -> Poll<Result<(), Lagged>> {
        let mut window = self.feed.lock();
        let window = &mut *window;
        if std::mem::replace(&mut window.seats[self.seat].state, SeatState::Behind) == SeatState::Woken {
            self.feed.had_its_turn(window);
        }
        if self.position < window.first {
            window.seats[self.seat].state = SeatState::Told;
            return Poll::Ready(Err(Lagged));
        }
        let mut bytes = 0;
        let index = (self.position - window.first) as usize;
        for batch in window.batches.range(index..).take(TAKE_BATCHES) {
            taken.push(batch.clone());
            bytes += batch.raw().len();
            if bytes >= TAKE_BYTES {
                break;
            }
        }
        let seat = &mut window.seats[self.seat];
        seat.position = self.position;
        if !seat.waker.will_wake(context.waker()) {
            seat.waker.clone_from(context.waker());
        }
        if taken.is_empty() {
            seat.state = SeatState::Waiting;
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes of the first batch taken that are already behind.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Moves on by `bytes` of the raw frames of `taken`.
    pub fn advance(&mut self, taken: &[Arc<Batch>], bytes: usize) -> Progress {
        let mut progress = Progress::default();
        self.sent += bytes;
        while let Some(batch) = taken.get(progress.batches)
            && self.sent >= batch.raw().len()
        {
            self.sent -= batch.raw().len();
            self.offset = batch.offset + batch.span;
            self.position += 1;
            self.partial = None;
            progress.messages += batch.len() as u64 - u64::from(std::mem::take(&mut self.done));
            progress.batches += 1;
        }
        if self.sent > 0
            && let Some(batch) = taken.get(progress.batches)
        {
            let done = batch.messages_before(self.sent) as u32;
            progress.messages += u64::from(done - self.done);
            self.done = done;
            self.partial.get_or_insert_with(|| batch.clone());
        }
        progress
    }

    /// The batch of a frame that was begun and not ended, with the frame's end: it must be ended before anything else.
    pub fn unfinished_frame(&self) -> Option<(Arc<Batch>, usize)> {
        let batch = self.partial.as_ref()?;
        let end = batch.frame_boundary(self.sent);
        (end > self.sent).then(|| (batch.clone(), end))
    }

    /// Wants nothing more: it is woken by nothing and keeps nothing in the window.
    pub fn retire(&mut self) {
        let mut window = self.feed.lock();
        if std::mem::replace(&mut window.seats[self.seat].state, SeatState::Retired) == SeatState::Woken {
            self.feed.had_its_turn(&mut window);
        }
    }

    /// Goes on with the newest batch; returns how many messages are left out. A frame that was begun must be ended before.
    pub fn skip_to_newest(&mut self) -> u64 {
        let window = self.feed.lock();
        let Some(newest) = window.batches.back() else { return 0 };
        let missed = newest.offset.saturating_sub(self.offset + u64::from(self.done));
        self.offset = newest.offset;
        self.position = window.end() - 1;
        (self.sent, self.done, self.partial) = (0, 0, None);
        missed
    }

    /// Whether message `number` of those that this node published has come back, and if so where the feed ends now:
    /// a reader whose [`Self::position`] is there has everything up to it.
    pub fn confirmed(&self, number: u64) -> Option<u64> {
        let window = self.feed.lock();
        (window.confirmed >= number).then(|| window.end())
    }

    /// Whether the batch that is read next was there before this reader.
    pub fn is_replaying(&self) -> bool {
        self.position < self.live_from
    }

    /// Sequence number of the batch that is read next.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut window = self.feed.lock();
        if window.seats.remove(self.seat).state == SeatState::Woken {
            self.feed.had_its_turn(&mut window);
        }
        if window.seats.is_empty() {
            // Every append walks the seats, also those that many clients once had.
            window.seats = Slab::new();
        }
    }
}
