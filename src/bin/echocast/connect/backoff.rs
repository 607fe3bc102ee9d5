//! When to try again after a connection failed.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep_until};

/// The first reconnect comes within this time. Each failure doubles the window.
const FIRST_WINDOW: Duration = Duration::from_millis(500);
/// The longest window between two attempts.
pub(super) const LONGEST_WINDOW: Duration = Duration::from_secs(15);
/// More doublings than the longest window needs, and few enough not to overflow.
const MAX_DOUBLINGS: u32 = 10;

pub(super) struct Backoff {
    /// In a row.
    failures: u32,
    next_try: Instant,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            failures: 0,
            next_try: Instant::now(),
        }
    }

    /// Waits until the next attempt is due.
    pub(super) async fn wait(&self) {
        sleep_until(self.next_try).await;
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Schedules the next attempt after a failure; returns a text that says when.
    ///
    /// Full jitter: thousands of clients that lost one node must not reconnect together.
    pub(super) fn failed(&mut self) -> String {
        // The window grows with every failure.
        let doublings = self.failures.min(MAX_DOUBLINGS);
        let window = LONGEST_WINDOW.min(FIRST_WINDOW * 2_u32.pow(doublings));
        self.failures += 1;
        self.retry_after(rand::rng().random_range(Duration::ZERO..=window))
    }

    /// Schedules the next attempt; returns a text that says when.
    pub(super) fn retry_after(&mut self, delay: Duration) -> String {
        self.next_try = Instant::now() + delay;
        format!("retrying in {:.1} s", delay.as_secs_f32())
    }
}
