//! Cursors: where a reader is in a feed, to the byte, and what it takes at a time.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use smallvec::SmallVec;

use super::{Feed, SeatState, Window};
use crate::message::{Batch, Format};

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
    /// Items of the current batch that are already behind, or that this reader does not get.
    done: u32,
    /// Bytes of the item after those that are already behind.
    into: u32,
    /// The batch with which live delivery begins; what lies before it is replay.
    live_from: u64,
    /// The current batch while it is half read, so that its frame can be ended even if the window moves on.
    partial: Option<Arc<Batch>>,
}

/// What one visit took. On the stack of one poll: a waiting reader holds none.
pub type Taken = SmallVec<[Arc<Batch>; 16]>;

impl Cursor {
    /// At message `place.1` of batch `place.0`.
    pub(super) fn new(feed: Arc<Feed>, seat: usize, window: &Window, place: (u64, usize)) -> Self {
        let (position, done) = place;
        let current = window.batches.get((position - window.first) as usize);
        let offset = current.map_or(window.next_offset, |batch| batch.offset);
        Self { feed, seat, position, offset, done: done as u32, into: 0, live_from: window.end(), partial: None }
    }

    /// Takes what there is, up to a bound, without moving. When there is nothing, the task is woken by the next append.
    pub fn poll_take(&mut self, context: &mut Context<'_>, taken: &mut Taken) -> Poll<Result<(), Lagged>> {
        self.poll_take_and_wait(context, taken, false).map_ok(|_waits| ())
    }

    /// The same; if `wait`, what it returns says whether that is all there is and the task is woken by the next append, as
    /// if it had come back and found nothing. Who then does not get on with what it took calls [`Self::falls_behind`].
    pub fn poll_take_and_wait(
        &mut self,
        context: &mut Context<'_>,
        taken: &mut Taken,
        wait: bool,
    ) -> Poll<Result<bool, Lagged>> {
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
        let waits = taken.is_empty() || (wait && index + taken.len() == window.batches.len());
        let seat = &mut window.seats[self.seat];
        // Not behind what it took: that is kept for it until it comes back.
        seat.position = self.position;
        if !seat.waker.will_wake(context.waker()) {
            seat.waker.clone_from(context.waker());
        }
        if waits {
            seat.state = SeatState::Waiting;
        }
        if taken.is_empty() { Poll::Pending } else { Poll::Ready(Ok(waits)) }
    }

    /// It waits for its socket: only lagging out wakes it.
    pub fn falls_behind(&mut self) {
        let seat = &mut self.feed.lock().seats[self.seat];
        if seat.state == SeatState::Waiting {
            seat.state = SeatState::Behind;
        }
    }

    /// Takes what there is without waiting for more; returns whether there was anything.
    pub fn take_now(&mut self, taken: &mut Taken) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.poll_take(&mut context, taken) == Poll::Ready(Ok(()))
    }

    /// Moves on behind everything in `taken`.
    pub fn skip(&mut self, taken: &[Arc<Batch>]) {
        // At no byte of no batch, formats do not differ.
        self.advance(taken, Format::RAW, taken.len(), 0);
    }

    /// Messages of the first batch taken that are already behind.
    pub fn messages_behind(&self) -> usize {
        self.done as usize
    }

    /// Bytes of `current`, the first batch taken, that are already behind.
    pub fn sent(&self, current: &Batch, format: Format) -> usize {
        current.end_of(format, self.done as usize) + self.into as usize
    }

    /// Moves on to byte `at` of batch `index` of `taken`, which is not its end.
    pub fn advance(&mut self, taken: &[Arc<Batch>], format: Format, index: usize, at: usize) {
        if let Some(before) = index.checked_sub(1) {
            self.position += index as u64;
            self.offset = taken[before].end();
            (self.done, self.into, self.partial) = (0, 0, None);
        }
        let Some(batch) = taken.get(index).filter(|_| at > 0) else { return };
        let done = batch.items_before(format, at);
        self.done = done as u32;
        self.into = (at - batch.end_of(format, done)) as u32;
        if self.into == 0 {
            self.partial = None;
        } else {
            self.partial.get_or_insert_with(|| batch.clone());
        }
    }

    /// Counts what batches were encoded into among what their feed holds.
    pub fn account(&self, taken: &[Arc<Batch>]) {
        if !taken.iter().any(|batch| batch.has_grown()) {
            return;
        }
        let mut window = self.feed.lock();
        for (position, batch) in (self.position..).zip(taken) {
            let grown = batch.grow();
            // Who holds what has left the window is bounded by other means.
            if position >= window.first {
                window.bytes += grown;
                self.feed.bytes_gauge.add(grown as i64);
            }
        }
    }

    /// The batch of an item that was begun and not ended, with the item's end: it must be ended before anything else.
    pub fn unfinished_item(&self, format: Format) -> Option<(Arc<Batch>, usize)> {
        let batch = self.partial.as_ref()?;
        Some((batch.clone(), batch.end_of(format, self.done as usize + 1)))
    }

    /// Wants nothing more: it is woken by nothing and keeps nothing in the window.
    pub fn retire(&mut self) {
        let mut window = self.feed.lock();
        if std::mem::replace(&mut window.seats[self.seat].state, SeatState::Retired) == SeatState::Woken {
            self.feed.had_its_turn(&mut window);
        }
    }

    /// Goes on with the newest batch; returns how many messages are left out, if that is known. An item that was begun must be ended before.
    pub fn skip_to_newest(&mut self) -> Option<u64> {
        let window = self.feed.lock();
        let newest = window.batches.back()?;
        // None of what has no offset of its own, or when offsets began anew.
        let missed = newest.offset.checked_sub(self.offset + u64::from(self.done)).filter(|missed| *missed > 0);
        self.offset = newest.offset;
        self.position = window.end() - 1;
        (self.done, self.into, self.partial) = (0, 0, None);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::*};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::feed::Retention;
    use crate::message::{BatchBuilder, Kind};
    use crate::metrics::Gauge;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn append(feed: &Feed) {
        let mut batch = BatchBuilder::default();
        batch.push(Kind::Binary, &[7; 1000], 0);
        feed.append(batch.build(0), None);
    }

    #[test]
    fn a_reader_whose_socket_is_full_keeps_its_place_and_sleeps_until_it_lags() {
        let retention = Retention { messages: 0, bytes: 50_000, ttl: Duration::from_secs(60) };
        let feed = Arc::new(Feed::new(retention, 1, Gauge::new("bytes", "held").expect("a good name")));
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let mut context = Context::from_waker(&waker);
        let (mut reader, mut taken) = (feed.follow(), Taken::new());
        append(&feed);
        assert_eq!(reader.poll_take_and_wait(&mut context, &mut taken, true), Poll::Ready(Ok(true)));
        // While it writes, much comes; then it turns out that its socket is full.
        (0..3).for_each(|_| append(&feed));
        assert_eq!(wakes.0.load(Relaxed), 1);
        reader.falls_behind();
        taken.clear();
        assert_eq!(reader.poll_take_and_wait(&mut context, &mut taken, true), Poll::Ready(Ok(true)));
        assert_eq!(taken.len(), 4);
        reader.falls_behind();
        (0..10).for_each(|_| append(&feed));
        assert_eq!(wakes.0.load(Relaxed), 1);
        (0..100).for_each(|_| append(&feed));
        assert_eq!(wakes.0.load(Relaxed), 2, "it has lagged");
        assert_eq!(reader.poll_take_and_wait(&mut context, &mut taken, true), Poll::Ready(Err(Lagged)));
    }
}
