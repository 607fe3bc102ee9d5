//! Filling a feed backwards: batches that the broker's history has from before the window. They use
//! only memory that is free, and push nothing out.

use std::sync::Arc;

use super::window::Window;
use super::{Feed, Retention};
use crate::budget::Part;
use crate::message::Batch;

impl Feed {
    /// The epoch, 0 if none is known, and the offset of the first message in the window, or of the
    /// next message if it is empty.
    pub(crate) fn begins(&self) -> (u64, u64) {
        let window = self.lock();
        (window.epoch, window.begins())
    }

    /// Whether the window is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().batches.is_empty()
    }

    /// Mean size of the batches in the window, in bytes.
    pub(crate) fn mean_batch(&self) -> Option<usize> {
        let window = self.lock();
        window.bytes.checked_div(window.batches.len())
    }

    /// The offset before which batches may be prepended; `None` if there is no room for any.
    pub(crate) fn has_room_before(&self) -> Option<u64> {
        let window = self.lock();
        let has_room = window.has_room_before(&self.retention);
        has_room.then(|| window.begins())
    }

    /// Adds a batch that ends where the window begins, if the retention has room. Returns whether
    /// it was added.
    pub(crate) fn prepend(&self, mut batch: Batch) -> bool {
        let mut window = self.lock();
        let fits = window.takes_before(&batch, &self.retention);
        if fits {
            batch.charge(&self.budget, Part::Feeds);
            self.bytes_gauge.add(batch.weight() as i64);
            window.prepend(batch);
        }
        fits
    }

    /// Counts a batch that is read for clients and does not fit the feed.
    pub(crate) fn charge_page(&self, batch: &mut Batch) {
        batch.charge(&self.budget, Part::Pages);
    }

    /// The broker's history has nothing before `offset`, with which the window begins: no reader
    /// needs to ask for it.
    pub(crate) fn exhaust(&self, epoch: u64, offset: u64) {
        let mut window = self.lock();
        // The window may begin elsewhere since the history was read.
        if (window.epoch, window.begins()) == (epoch, offset) {
            window.history_from = offset;
        }
    }

    /// The batch before the window cannot be prepended, and so none before that.
    pub(crate) fn seal(&self, epoch: u64, offset: u64) {
        let mut window = self.lock();
        if (window.epoch, window.begins()) == (epoch, offset) {
            window.sealed = true;
        }
    }
}

impl Window {
    /// The offset of the first message of the newest history.
    pub(super) fn begins(&self) -> u64 {
        self.kept_from(0)
    }

    /// Whether the broker's history is known to have nothing before the window.
    pub(super) fn is_exhausted(&self) -> bool {
        self.history_from > 0 && self.history_from >= self.begins()
    }

    fn has_room_before(&self, retention: &Retention) -> bool {
        let is_open = self.epoch != 0 && !self.sealed;
        // A window that has dropped a batch is not filled: the new batch would get the position of
        // the old one, and a reader that lagged out without knowing would read it instead.
        let has_dropped = self.first != self.lowest;
        let has_room = self.messages < retention.messages
            && self.bytes < retention.bytes.min(retention.history_bytes);
        is_open && !has_dropped && has_room && self.begins_with_its_history()
    }

    /// Whether the front batch is a message of the newest history, so that an older one can precede
    /// it.
    fn begins_with_its_history(&self) -> bool {
        self.batches
            .front()
            .is_none_or(|front| front.epoch == self.epoch && front.gap.is_none())
    }

    fn takes_before(&self, batch: &Batch, retention: &Retention) -> bool {
        let bytes = self.bytes + batch.weight();
        self.has_room_before(retention)
            && (batch.epoch, batch.end()) == (self.epoch, self.begins())
            && bytes <= retention.bytes.min(retention.history_bytes)
    }

    fn prepend(&mut self, batch: Batch) {
        self.bytes += batch.weight();
        self.messages += batch.len();
        self.raw_bytes += batch.raw().len();
        self.first -= 1;
        self.lowest = self.first;
        self.batches.push_front(Arc::new(batch));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::{BeforeWindow, FeedWriter, NotInWindow, Start, Taken};
    use crate::message::{BatchBuilder, Kind, MessageId};

    fn batch(epoch: u64, offsets: std::ops::Range<u64>) -> Batch {
        let mut builder = BatchBuilder::default();
        offsets
            .clone()
            .for_each(|offset| builder.push(Kind::Text, offset.to_string().as_bytes(), 0));
        let mut batch = builder.build(0);
        (batch.epoch, batch.offset, batch.span) =
            (epoch, offsets.start, offsets.end - offsets.start);
        batch
    }

    fn feed(messages: usize, bytes: usize) -> (FeedWriter, Arc<Feed>) {
        let retention = Retention {
            messages,
            bytes,
            history_bytes: bytes,
            ttl: Duration::from_secs(60),
        };
        let (mut writer, feed) = FeedWriter::for_test(retention);
        writer.jump(7, 100);
        (writer, feed)
    }

    /// Why a start is before the window.
    fn before(feed: &Arc<Feed>, start: Start) -> BeforeWindow {
        match feed.find(start) {
            Err(NotInWindow::Before(before)) => before,
            found => panic!("{found:?}"),
        }
    }

    fn texts(feed: &Arc<Feed>, start: Start) -> Vec<String> {
        let mut cursor = feed.find(start).expect("it is in the window").cursor;
        let mut texts = Vec::new();
        let mut taken = Taken::new();
        while cursor.take_now(&mut taken) == Ok(true) {
            let mut behind = cursor.messages_behind();
            for batch in &taken {
                let messages = batch.messages().skip(std::mem::take(&mut behind));
                texts.extend(messages.map(|(_, text)| String::from_utf8_lossy(text).into_owned()));
            }
            cursor.skip(&taken);
            taken.clear();
        }
        texts
    }

    #[test]
    fn what_is_prepended_is_read_before_what_came_first() {
        let (mut writer, feed) = feed(1000, 10_000);
        let mut follower = feed.follow();
        let older = before(&feed, Start::Last(3));
        assert_eq!(
            (older.offset, older.kept_from, older.gone),
            (97, 100, false)
        );
        assert!(feed.prepend(batch(7, 98..100)));
        writer.accept(7, batch(7, 100..101), None);
        assert!(feed.prepend(batch(7, 90..98)));
        assert_eq!(texts(&feed, Start::Last(3)), ["98", "99", "100"]);
        assert_eq!(
            texts(
                &feed,
                Start::After(MessageId {
                    epoch: 7,
                    offset: 96
                })
            ),
            ["97", "98", "99", "100"]
        );
        let mut taken = Taken::new();
        assert!(
            follower.take_now(&mut taken) == Ok(true) && taken.len() == 1,
            "who follows gets only what came since"
        );
        assert_eq!(taken[0].offset, 100);
        assert_eq!(feed.bytes_gauge.get(), feed.bytes() as i64);
    }

    #[test]
    fn only_what_fits_is_prepended() {
        let (_writer, feed) = feed(5, 10_000);
        assert!(!feed.prepend(batch(8, 98..100)), "of another history");
        assert!(!feed.prepend(batch(7, 97..99)), "one is missing between");
        assert!(feed.prepend(batch(7, 96..100)));
        assert!(feed.prepend(batch(7, 90..96)), "five are kept at least");
        assert!(
            !feed.prepend(batch(7, 89..90)) && feed.has_room_before().is_none(),
            "and no batch more than that takes"
        );
        let (_writer, feed) = self::feed(1000, 300);
        assert!(feed.prepend(batch(7, 99..100)));
        assert!(!feed.prepend(batch(7, 89..99)), "too many bytes");
    }

    #[test]
    fn a_window_that_has_dropped_a_batch_is_not_filled() {
        let (mut writer, feed) = feed(1000, 1000);
        for offset in 100..200 {
            writer.accept(7, batch(7, offset..offset + 1), None);
        }
        let (_, begins) = feed.begins();
        assert!(begins > 100 && !feed.prepend(batch(7, begins - 1..begins)));
    }

    #[test]
    fn nobody_asks_for_what_the_history_does_not_have() {
        let (mut writer, feed) = feed(1000, 10_000);
        feed.exhaust(7, 99);
        assert!(
            !before(&feed, Start::Last(3)).gone,
            "it begins elsewhere by now"
        );
        feed.exhaust(7, 100);
        assert!(texts(&feed, Start::Last(3)).is_empty());
        let after = Start::After(MessageId {
            epoch: 7,
            offset: 50,
        });
        let older = before(&feed, after);
        assert_eq!((older.gone, older.kept_from), (true, 100));
        writer.jump(8, 5);
        assert!(!before(&feed, Start::Last(3)).gone, "another history");
    }
}
