//! Cursors: where a reader is in a feed, to the byte, and the batches it takes at a time.
//!
//! A cursor has a reader slot in its feed, except while it waits in a group or reads batches that
//! are not in the feed. The slot keeps the batches that it has not finished, and wakes it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::window::{ReaderState, StartPosition, Window};
use super::{Feed, GroupBatches};
use crate::message::{Batch, Format, Missed, Sequence};

/// Batches taken in one turn at most: as many as fit a `writev` beside control frames.
pub(crate) const TAKE_BATCHES: usize = 60;

/// Bytes taken in one turn at most, so that one reader with a deep backlog does not hold its worker
/// thread for long.
const TAKE_BYTES: usize = 1024 * 1024;

/// The position of a cursor that is in no window: behind every one, with room to move.
const DETACHED: u64 = 1 << 62;

/// The reader's position has left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lagged;

/// One reader's place in a feed, to the byte: a batch may be half written to a socket.
#[derive(Debug)]
pub(crate) struct Cursor {
    feed: Arc<Feed>,
    /// The key of its slot; `None` while it is in a group, and after it retired.
    reader: Option<usize>,
    /// Position of the current batch: the one to be read next, or being read.
    position: u64,
    /// Offset of the current batch's first message.
    offset: u64,
    /// Items of the current batch that are written, or that this reader does not get.
    done: u32,
    /// Bytes written of the item after those.
    into: u32,
    /// Position of the batch with which live delivery begins. Batches before it are replay.
    live_from: u64,
    /// The current batch while an item of it is half written, so that the item can be ended even
    /// if the window moves on.
    partial: Option<Arc<Batch>>,
}

/// The batches of one turn. They are on the stack of one poll: a waiting reader holds none.
pub(crate) type Taken = SmallVec<[Arc<Batch>; 16]>;

impl Cursor {
    /// At a position in the window.
    pub(super) fn new(
        feed: Arc<Feed>,
        reader: usize,
        window: &Window,
        start: StartPosition,
    ) -> Self {
        let index = start.batch - window.first;
        let current = window.batches.get(index as usize);
        let offset = current.map_or(window.next_offset, |batch| batch.offset);
        Self {
            feed,
            reader: Some(reader),
            position: start.batch,
            offset,
            done: start.skip as u32,
            into: 0,
            live_from: window.end(),
            partial: None,
        }
    }

    /// In batches that the feed does not hold, behind the first `skip` messages. It takes nothing
    /// from the feed, and the feed keeps nothing for it.
    pub(crate) fn detached(feed: Arc<Feed>, skip: usize) -> Self {
        Self {
            feed,
            reader: None,
            position: DETACHED,
            offset: 0,
            done: skip as u32,
            into: 0,
            live_from: u64::MAX,
            partial: None,
        }
    }

    /// Takes batches up to a bound, without moving. If there are none, the next append wakes the
    /// task.
    pub(crate) fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        taken: &mut Taken,
    ) -> Poll<Result<(), Lagged>> {
        let (slot, waker) = (&mut self.reader, context.waker());
        let mut window = self.feed.lock();
        match take(&self.feed, &mut window, slot, self.position, waker, taken) {
            Ok(reader) if taken.is_empty() => {
                window.change(reader, ReaderState::Waiting);
                Poll::Pending
            }
            result => Poll::Ready(result.map(drop)),
        }
    }

    /// Takes batches up to a bound, without moving. If there are none, it gives up its slot and
    /// joins the group of its thread, which is woken instead.
    ///
    /// # Errors
    /// If it has lagged out.
    pub(crate) fn take_or_join_group(
        &mut self,
        waker: &Waker,
        taken: &mut Taken,
    ) -> Result<(), Lagged> {
        let slot = &mut self.reader;
        let mut window = self.feed.lock();
        let reader = take(&self.feed, &mut window, slot, self.position, waker, taken)?;
        if taken.is_empty() {
            self.reader = None;
            self.feed.remove_reader(&mut window, reader);
        }
        Ok(())
    }

    /// The group's batches that it has not read, up to a bound. `None` if it is not in the group,
    /// or the group dropped some of them.
    #[inline]
    pub(crate) fn unread<'a>(&self, group: GroupBatches<'a>) -> Option<&'a [Arc<Batch>]> {
        if !self.is_in_group() {
            return None;
        }
        let batches = group.since(self.position)?;
        Some(&batches[..batches.len().min(TAKE_BATCHES)])
    }

    /// Whether it waits in the group of its thread.
    #[inline]
    pub(crate) fn is_in_group(&self) -> bool {
        self.reader.is_none()
    }

    /// It cannot keep up with its group: from now on it takes for itself. It is woken only if it
    /// lags out.
    pub(crate) fn leave_group(&mut self, waker: &Waker) {
        if self.is_in_group() {
            let mut window = self.feed.lock();
            let reader = window.add_reader(waker.clone(), ReaderState::Behind, self.position);
            self.reader = Some(reader);
        }
    }

    /// Takes batches without waiting for more. Returns whether there were any.
    ///
    /// # Errors
    /// If it has lagged out.
    pub(crate) fn take_now(&mut self, taken: &mut Taken) -> Result<bool, Lagged> {
        let mut context = Context::from_waker(Waker::noop());
        match self.poll_take(&mut context, taken) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Whether it is in the middle of an item of a batch that has left the window.
    pub(crate) fn is_stuck(&self) -> bool {
        self.partial.is_some() && self.position < self.feed.lock().first
    }

    /// Moves on behind everything in `taken`.
    pub(crate) fn skip(&mut self, taken: &[Arc<Batch>]) {
        // At the start of a batch all formats are alike.
        self.advance(taken, Format::RAW, taken.len(), 0);
    }

    /// Whether it is at the start of a batch.
    pub(crate) fn is_between_batches(&self) -> bool {
        (self.done, self.into) == (0, 0)
    }

    /// Messages of the first batch taken that it has read already.
    pub(crate) fn messages_behind(&self) -> usize {
        self.done as usize
    }

    /// Bytes of `current`, the first batch taken, that are written already.
    #[inline(always)]
    pub(crate) fn sent(&self, current: &Batch, format: Format) -> usize {
        current.end_of(format, self.done as usize) + self.into as usize
    }

    /// Moves on to byte `at` of batch `index` of `taken`, which is not its end.
    pub(crate) fn advance(
        &mut self,
        taken: &[Arc<Batch>],
        format: Format,
        index: usize,
        at: usize,
    ) {
        if let Some(before) = index.checked_sub(1) {
            self.position += index as u64;
            self.offset = taken[before].end();
            self.begin_batch();
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

    #[inline]
    fn begin_batch(&mut self) {
        (self.done, self.into, self.partial) = (0, 0, None);
    }

    /// Counts new encodings of these batches among the bytes of the feed, which may trim it.
    pub(crate) fn account(&self, taken: &[Arc<Batch>]) {
        if !taken.iter().any(|batch| batch.has_grown()) {
            return;
        }
        let mut window = self.feed.lock();
        let before = window.bytes as i64;
        for (position, batch) in (self.position..).zip(taken) {
            let grown = batch.grow();
            // A batch that has left the window counts only in the memory budget, until its last
            // reader drops it.
            if position >= window.first {
                window.bytes += grown;
            }
        }
        window.trim(&self.feed.retention);
        self.feed.bytes_gauge.add(window.bytes as i64 - before);
    }

    /// The batch of a half-written item, and where that item ends. It must be ended before anything
    /// else is written.
    pub(crate) fn unfinished_item(&self, format: Format) -> Option<(Arc<Batch>, usize)> {
        let batch = self.partial.as_ref()?;
        Some((batch.clone(), batch.end_of(format, self.done as usize + 1)))
    }

    /// Gives up its slot: nothing wakes it, and the window keeps nothing for it.
    pub(crate) fn retire(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.feed.remove_reader(&mut self.feed.lock(), reader);
        }
    }

    /// Moves on to the newest batch; returns how many messages that leaves out. A half-written item
    /// must be ended before.
    pub(crate) fn skip_to_newest(&mut self) -> Missed {
        let mut window = self.feed.lock();
        let newest = window.batches.back();
        let offset = newest.map_or(window.next_offset, |batch| batch.offset);
        // Unknown for messages without offsets, or when the offsets began anew.
        let missed = offset
            .checked_sub(self.offset + u64::from(self.done))
            .filter(|missed| *missed > 0)
            .map_or(Missed::Unknown, Missed::Exactly);
        let position = window.end().saturating_sub(1).max(window.first);
        // A new slot at that position, so that the batch is kept for it from now on.
        if let Some(lagged) = self.reader.take() {
            let waker = window.readers.remove(lagged).waker;
            self.reader = Some(window.add_reader(waker, ReaderState::Behind, position));
        }
        drop(window);
        (self.offset, self.position) = (offset, position);
        self.begin_batch();
        missed
    }

    /// The end of the feed, if this message, of those that this node published, was received back.
    /// A reader whose [`Self::position`] is there has everything up to it.
    pub(crate) fn confirmed(&self, sequence: Sequence) -> Option<u64> {
        let window = self.feed.lock();
        (window.confirmed >= sequence).then(|| window.end())
    }

    /// Whether the next batch was in the feed before this reader.
    #[inline]
    pub(crate) fn is_replaying(&self) -> bool {
        self.position < self.live_from
    }

    /// Position of the batch that is read next.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

/// Takes batches from a position on, up to a bound, for a reader that has a slot afterwards.
/// Returns the key of that slot.
fn take(
    feed: &Feed,
    window: &mut Window,
    slot: &mut Option<usize>,
    position: u64,
    waker: &Waker,
    taken: &mut Taken,
) -> Result<usize, Lagged> {
    let reader = *slot
        .get_or_insert_with(|| window.add_reader(waker.clone(), ReaderState::Behind, position));
    // This is the turn that the writer may be waiting for.
    if window.change(reader, ReaderState::Behind) == ReaderState::Woken {
        feed.had_its_turn(window);
    }
    let Some(index) = position.checked_sub(window.first) else {
        window.change(reader, ReaderState::Lagged);
        return Err(Lagged);
    };
    copy_batches(window, index as usize, taken);
    let slot = &mut window.readers[reader];
    // Not behind the batches taken: the window keeps them until the reader returns.
    slot.position = position;
    if !slot.waker.will_wake(waker) {
        slot.waker.clone_from(waker);
    }
    Ok(reader)
}

#[inline]
fn copy_batches(window: &Window, index: usize, taken: &mut Taken) {
    let mut bytes = 0;
    for batch in window.batches.range(index..).take(TAKE_BATCHES) {
        taken.push(batch.clone());
        bytes += batch.raw().len();
        if bytes >= TAKE_BYTES {
            break;
        }
    }
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
