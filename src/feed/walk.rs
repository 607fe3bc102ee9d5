//! A walk over the seats of a feed: it wakes readers and learns what is still needed. It goes in
//! chunks, each under one lock, so that readers on other threads are not kept from theirs. Two
//! walks may be under way at once: the broker appends while it also confirms what will not come
//! back.

use super::{SeatState, Window};

/// Seats visited under one lock; few in tests, so that walks of few readers mix.
const CHUNK: usize = if cfg!(test) { 2 } else { 256 };

#[derive(Debug)]
pub(super) struct Walk {
    next: usize,
    /// The least position of the readers it has come by.
    needed_from: u64,
}

impl Walk {
    pub(super) fn begin(window: &mut Window) -> Self {
        // Another walk has perhaps passed by where readers have come since: only the first may
        // forget who they are.
        if window.walks == 0 {
            window.joined_from = u64::MAX;
        }
        window.walks += 1;
        Self {
            next: 0,
            needed_from: u64::MAX,
        }
    }

    /// Visits the next seats: wakes who waits or has lagged out. Returns whether that were the
    /// last.
    pub(super) fn step(&mut self, window: &mut Window) -> bool {
        let first = window.first;
        let upto = window.seats.capacity().min(self.next + CHUNK);
        let mut woken = 0;
        for key in self.next..upto {
            let Some(seat) = window.seats.get_mut(key) else {
                continue;
            };
            let lagged = seat.position < first;
            match seat.state {
                SeatState::Told => continue,
                SeatState::Waiting => {}
                SeatState::Behind if lagged => {}
                SeatState::Behind | SeatState::Woken => {
                    self.needed_from = self.needed_from.min(seat.position);
                    continue;
                }
            }
            seat.state = SeatState::Woken;
            seat.waker.wake_by_ref();
            woken += 1;
            self.needed_from = self.needed_from.min(seat.position);
        }
        window.woken += woken;
        self.next = upto;
        let is_last = upto >= window.seats.capacity();
        if is_last {
            window.walks -= 1;
            // Readers only move forward, so what was learned in earlier chunks at worst keeps too
            // much.
            window.needed_from = self.needed_from.min(window.joined_from).min(window.end());
        }
        is_last
    }
}
