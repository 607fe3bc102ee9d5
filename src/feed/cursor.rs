//! Cursors: where a reader is in a feed, to the byte, and what it takes at a time.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::{Feed, GroupBatches, SeatState, Window};
use crate::message::{Batch, Format, Missed, Sequence};

/// Batches one visit takes at most: as many as fit a `writev` beside control frames.
pub const TAKE_BATCHES: usize = 60;

/// Bytes one visit takes at most, so that one reader with a deep backlog does not hold its worker
/// for long.
const TAKE_BYTES: usize = 1024 * 1024;

/// The position of a cursor that is in no window: behind every one, with room to move.
const DETACHED: u64 = 1 << 62;

/// The reader's position has left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

/// One reader's place in a feed, to the byte: a batch may be half written to a socket.
#[derive(Debug)]
pub struct Cursor {
    feed: Arc<Feed>,
    /// `None` while it rests, and when it wants nothing more.
    seat: Option<usize>,
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
    /// The current batch while it is half read, so that its frame can be ended even if the window
    /// moves on.
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
        Self {
            feed,
            seat: Some(seat),
            position,
            offset,
            done: done as u32,
            into: 0,
            live_from: window.end(),
            partial: None,
        }
    }

    /// In batches that the feed does not hold, of which the first `skip` messages are left out. It
    /// takes nothing from the feed, and the feed keeps nothing for it.
    pub fn detached(feed: Arc<Feed>, skip: usize) -> Self {
        let (seat, offset, into, partial) = (None, 0, 0, None);
        Self {
            feed,
            seat,
            position: DETACHED,
            offset,
            done: skip as u32,
            into,
            live_from: u64::MAX,
            partial,
        }
    }

    /// Takes what there is, up to a bound, without moving. When there is nothing, the task is woken
    /// by the next append.
    pub fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        taken: &mut Taken,
    ) -> Poll<Result<(), Lagged>> {
        let mut window = self.feed.lock();
        match take(
            &self.feed,
            &mut window,
            &mut self.seat,
            self.position,
            context.waker(),
            taken,
        ) {
            Ok(seat) if taken.is_empty() => {
                window.change(seat, SeatState::Waiting);
                Poll::Pending
            }
            result => Poll::Ready(result.map(drop)),
        }
    }

    /// Takes what there is, up to a bound, without moving. When there is nothing, it gives its seat
    /// up and rests: its [`super::Group`] brings what comes.
    ///
    /// # Errors
    /// If it has lagged out.
    pub fn take_or_join_group(&mut self, waker: &Waker, taken: &mut Taken) -> Result<(), Lagged> {
        let mut window = self.feed.lock();
        let seat = take(
            &self.feed,
            &mut window,
            &mut self.seat,
            self.position,
            waker,
            taken,
        )?;
        if taken.is_empty() {
            self.seat = None;
            self.feed.leave(&mut window, seat);
        }
        Ok(())
    }

    /// What its group has taken and it has not seen, up to a bound, if it rests and nothing is
    /// missing.
    pub fn unread<'a>(&self, group: GroupBatches<'a>) -> Option<&'a [Arc<Batch>]> {
        let batches = if self.is_in_group() {
            group.since(self.position)?
        } else {
            return None;
        };
        Some(&batches[..batches.len().min(TAKE_BATCHES)])
    }

    /// Whether its group brings what comes.
    pub fn is_in_group(&self) -> bool {
        self.seat.is_none()
    }

    /// It cannot keep up with its group: from now on it takes for itself. Only lagging out wakes
    /// it.
    pub fn leave_group(&mut self, waker: &Waker) {
        if self.is_in_group() {
            self.seat = Some(self.feed.lock().sit_down(
                waker.clone(),
                SeatState::Behind,
                self.position,
            ));
        }
    }

    /// Takes what there is without waiting for more; returns whether there was anything.
    ///
    /// # Errors
    /// If it has lagged out.
    pub fn take_now(&mut self, taken: &mut Taken) -> Result<bool, Lagged> {
        let mut context = Context::from_waker(Waker::noop());
        match self.poll_take(&mut context, taken) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Whether it is in the middle of an item of a batch that has left the window.
    pub fn is_stuck(&self) -> bool {
        self.partial.is_some() && self.position < self.feed.lock().first
    }

    /// Moves on behind everything in `taken`.
    pub fn skip(&mut self, taken: &[Arc<Batch>]) {
        // At no byte of no batch, formats do not differ.
        self.advance(taken, Format::RAW, taken.len(), 0);
    }

    /// Whether nothing of the batch that is read next is behind.
    pub fn is_between_batches(&self) -> bool {
        (self.done, self.into) == (0, 0)
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
        let Some(batch) = taken.get(index).filter(|_| at > 0) else {
            return;
        };
        let done = batch.items_before(format, at);
        self.done = done as u32;
        self.into = (at - batch.end_of(format, done)) as u32;
        if self.into == 0 {
            self.partial = None;
        } else {
            self.partial.get_or_insert_with(|| batch.clone());
        }
    }

    /// Counts what batches were encoded into among what their feed holds, and drops what that is
    /// too much for.
    pub fn account(&self, taken: &[Arc<Batch>]) {
        if !taken.iter().any(|batch| batch.has_grown()) {
            return;
        }
        let mut window = self.feed.lock();
        let before = window.bytes as i64;
        for (position, batch) in (self.position..).zip(taken) {
            let grown = batch.grow();
            // A batch that has left the window counts in the memory budget alone, until its last
            // reader drops it.
            if position >= window.first {
                window.bytes += grown;
            }
        }
        window.trim(&self.feed.retention);
        self.feed.bytes_gauge.add(window.bytes as i64 - before);
    }

    /// The batch of an item that was begun and not ended, with the item's end: it must be ended
    /// before anything else.
    pub fn unfinished_item(&self, format: Format) -> Option<(Arc<Batch>, usize)> {
        let batch = self.partial.as_ref()?;
        Some((batch.clone(), batch.end_of(format, self.done as usize + 1)))
    }

    /// Wants nothing more: it is woken by nothing and keeps nothing in the window.
    pub fn retire(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.feed.leave(&mut self.feed.lock(), seat);
        }
    }

    /// Goes on with the newest batch; returns how many messages are left out. An
    /// item that was begun must be ended before.
    pub fn skip_to_newest(&mut self) -> Missed {
        let mut window = self.feed.lock();
        let newest = window
            .batches
            .back()
            .map_or(window.next_offset, |batch| batch.offset);
        // None of what has no offset of its own, or when offsets began anew.
        let missed = newest
            .checked_sub(self.offset + u64::from(self.done))
            .filter(|missed| *missed > 0)
            .map_or(Missed::Unknown, Missed::Exactly);
        self.offset = newest;
        self.position = window.end().saturating_sub(1).max(window.first);
        (self.done, self.into, self.partial) = (0, 0, None);
        if let Some(told) = self.seat.take() {
            // From now on, that batch is kept for it.
            let waker = window.seats.remove(told).waker;
            self.seat = Some(window.sit_down(waker, SeatState::Behind, self.position));
        }
        missed
    }

    /// Whether this message, of those that this node published, has come back, and if so where
    /// the feed ends now: a reader whose [`Self::position`] is there has everything up to it.
    pub fn confirmed(&self, sequence: Sequence) -> Option<u64> {
        let window = self.feed.lock();
        (window.confirmed >= sequence).then(|| window.end())
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

/// Takes what there is from a position on, up to a bound, for a reader who has a seat afterwards:
/// which one it returns.
fn take(
    feed: &Feed,
    window: &mut Window,
    seat: &mut Option<usize>,
    position: u64,
    waker: &Waker,
    taken: &mut Taken,
) -> Result<usize, Lagged> {
    let seat =
        *seat.get_or_insert_with(|| window.sit_down(waker.clone(), SeatState::Behind, position));
    if window.change(seat, SeatState::Behind) == SeatState::Woken {
        feed.had_its_turn(window);
    }
    let Some(index) = position.checked_sub(window.first) else {
        window.change(seat, SeatState::Told);
        return Err(Lagged);
    };
    let mut bytes = 0;
    for batch in window.batches.range(index as usize..).take(TAKE_BATCHES) {
        taken.push(batch.clone());
        bytes += batch.raw().len();
        if bytes >= TAKE_BYTES {
            break;
        }
    }
    let seat_now = &mut window.seats[seat];
    // Not behind what it took: that is kept for it until it comes back.
    seat_now.position = position;
    if !seat_now.waker.will_wake(waker) {
        seat_now.waker.clone_from(waker);
    }
    Ok(seat)
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.retire();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::*};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::feed::{FeedWriter, Group, Retention};
    use crate::message::{BatchBuilder, Kind};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn append(writer: &mut FeedWriter) {
        let mut batch = BatchBuilder::default();
        batch.push(Kind::Binary, &[7; 1000], 0);
        writer.append(batch.build(0), None);
    }

    #[test]
    fn a_reader_whose_socket_is_full_keeps_its_place_and_sleeps_until_it_lags() {
        let retention = Retention {
            messages: 0,
            bytes: 50_000,
            history_bytes: usize::MAX,
            ttl: Duration::from_secs(60),
        };
        let (mut writer, feed) = FeedWriter::for_test(retention);
        let (wakes, rings) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let waker = wakes.clone().into();
        let mut group = Group::new(&feed, rings.clone().into());
        let (mut reader, mut taken) = (feed.follow(), Taken::new());
        assert_eq!(reader.take_or_join_group(&waker, &mut taken), Ok(()));
        assert!(taken.is_empty() && reader.is_in_group());
        (0..3).for_each(|_| append(&mut writer));
        assert_eq!(rings.0.load(Relaxed), 1, "one for all");
        group.begin();
        let unread = reader.unread(group.batches()).expect("nothing is missing");
        assert_eq!(unread.len(), 3);
        // It gets one of them out.
        reader.advance(unread, Format::RAW, 1, 0);
        reader.leave_group(&waker);
        assert!(!group.settle());
        append(&mut writer);
        assert_eq!(reader.take_or_join_group(&waker, &mut taken), Ok(()));
        assert_eq!(taken.len(), 3);
        (0..10).for_each(|_| append(&mut writer));
        assert_eq!(wakes.0.load(Relaxed), 0);
        (0..100).for_each(|_| append(&mut writer));
        assert_eq!(wakes.0.load(Relaxed), 1, "it has lagged");
        assert_eq!(reader.take_or_join_group(&waker, &mut taken), Err(Lagged));
    }
}
