//! How many messages a publisher may send now, given how many of its own it has received back.

use std::time::{Duration, Instant};

/// Messages in flight for longer than this count as lost. Otherwise a server that loses messages
/// would stop the load.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Publisher {
    /// Messages sent, which is the number of the next one.
    sent: u32,
    /// Messages up to here were received back, or given up.
    returned: u32,
    /// When the last message was received back. With none in flight: when `room` was last called.
    progress_at: Instant,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self {
            sent: 0,
            returned: 0,
            progress_at: Instant::now(),
        }
    }

    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Counts a message as sent, and returns its number.
    pub(super) fn next_number(&mut self) -> u32 {
        self.sent += 1;
        self.sent - 1
    }

    /// How many messages it may send now, with at most `window` in flight.
    pub(super) fn room(&mut self, window: u32, now: Instant) -> u32 {
        self.give_up_lost(now);
        let in_flight = self.sent - self.returned;
        // Without messages in flight there is nothing to wait for.
        if in_flight == 0 {
            self.progress_at = now;
        }
        // Nothing until half of the window is back: messages that are sent together are read,
        // written and delivered together, which is how a busy client behaves.
        if in_flight <= window / 2 {
            window - in_flight
        } else {
            0
        }
    }

    /// Lost messages leave the window, so that others take their place.
    fn give_up_lost(&mut self, now: Instant) {
        if now.duration_since(self.progress_at) > GIVE_UP_AFTER {
            self.returned = self.sent;
        }
    }

    /// It has received one of its own messages.
    #[inline]
    pub(super) fn received_own(&mut self, number: u32, now: Instant) {
        self.returned = self.returned.max(number + 1);
        self.progress_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_filled_again_when_half_of_it_is_back() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        for (sent, heard, room) in [
            (0, None, 4),
            (4, None, 0),
            (4, Some(0), 0),
            (4, Some(1), 2),
            (6, Some(5), 4),
        ] {
            publisher.sent = sent;
            if let Some(number) = heard {
                publisher.received_own(number, now);
            }
            assert_eq!(publisher.room(4, now), room, "{publisher:?}");
        }
    }

    #[test]
    fn a_window_of_one_waits_for_each_message() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        assert_eq!(publisher.room(1, now), 1);
        publisher.sent = 1;
        assert_eq!(publisher.room(1, now), 0);
        publisher.received_own(0, now);
        assert_eq!(publisher.room(1, now), 1);
    }

    #[test]
    fn lost_messages_do_not_end_the_load() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        assert_eq!(publisher.room(2, now), 2);
        publisher.sent = 2;
        assert_eq!(publisher.room(2, now + GIVE_UP_AFTER), 0);
        assert_eq!(publisher.room(2, now + 2 * GIVE_UP_AFTER), 2);
    }
}
