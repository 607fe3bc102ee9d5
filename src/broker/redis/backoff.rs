//! How long to wait before trying again.

use std::time::Duration;

/// Time to wait before trying again: doubles from 50 ms to 1 s, half of it at random, so that nodes
/// which lost Redis together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let whole = Duration::from_millis(50 << self.tries.min(6)).min(Duration::from_secs(1));
        self.tries += 1;
        whole.div_f64(2.0) + whole.mul_f64(rand::random_range(0.0..0.5))
    }

    /// Whether trying again has failed, too.
    pub(super) fn is_long(&self) -> bool {
        self.tries > 1
    }

    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}
