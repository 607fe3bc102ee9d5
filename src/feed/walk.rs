//! A walk over the readers of a feed: it wakes them and finds the oldest batch that one of them
//! still needs. It goes in chunks, each under one lock, so that readers on other threads do not
//! wait for it. Two walks may overlap: the broker appends while it also confirms messages that will
//! not come back.

use super::window::{ReaderSlot, ReaderState, Window};

/// Readers visited under one lock; few in tests, so that walks of few readers mix.
const CHUNK: usize = if cfg!(test) { 2 } else { 256 };

#[derive(Debug)]
pub(super) struct Walk {
    /// The key of the next reader to visit.
    next: usize,
    /// The lowest position of the readers visited so far.
    needed_from: u64,
}

impl Walk {
    pub(super) fn begin(window: &mut Window) -> Self {
        // A walk that is under way may have passed keys that new readers got since. Only the first
        // of overlapping walks may therefore forget the positions of new readers.
        if window.walks == 0 {
            window.joined_from = u64::MAX;
        }
        window.walks += 1;
        Self {
            next: 0,
            needed_from: u64::MAX,
        }
    }

    /// Visits the next chunk of readers. Returns whether that was the last one.
    pub(super) fn step(&mut self, window: &mut Window) -> bool {
        let first = window.first;
        let end = window.readers.capacity().min(self.next + CHUNK);
        let mut woken = 0;
        for key in self.next..end {
            if let Some(reader) = window.readers.get_mut(key) {
                woken += usize::from(self.visit(reader, first));
            }
        }
        window.woken += woken;
        self.next = end;
        let is_last = end >= window.readers.capacity();
        if is_last {
            self.finish(window);
        }
        is_last
    }

    /// Wakes a reader that waits or has lagged out, and notes its position. Returns whether it was
    /// woken.
    #[inline]
    fn visit(&mut self, reader: &mut ReaderSlot, first: u64) -> bool {
        let wakes = match reader.state {
            ReaderState::Lagged => return false,
            ReaderState::Waiting => true,
            ReaderState::Behind => reader.position < first,
            ReaderState::Woken => false,
        };
        self.needed_from = self.needed_from.min(reader.position);
        if wakes {
            reader.state = ReaderState::Woken;
            reader.waker.wake_by_ref();
        }
        wakes
    }

    fn finish(&self, window: &mut Window) {
        window.walks -= 1;
        // Readers only move forward, so positions from earlier chunks at worst keep too much.
        window.needed_from = self.needed_from.min(window.joined_from).min(window.end());
    }
}
