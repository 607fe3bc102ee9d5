//! The time that a client has to take what waits for it. Every byte that it takes earns it more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::client::rate::LEAST_RATE;

/// How long a client may take nothing at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shortest time between two looks, because a look takes many system calls.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The credit of a client while something waits for it.
#[derive(Debug)]
pub(super) struct Credit {
    /// Fires when nothing would be left of it.
    timer: Pin<Box<Sleep>>,
    /// When the last look was.
    looked: Instant,
    /// Bytes that the client had taken by then, since its connection began.
    taken: u64,
    /// Time for which the client may take nothing from then on, at most [`PATIENCE`].
    left: Duration,
}

impl Credit {
    /// A full credit. `taken`: bytes that the client has taken so far.
    pub(super) fn new(taken: u64) -> Self {
        Self {
            timer: Box::pin(sleep(PATIENCE)),
            looked: Instant::now(),
            taken,
            left: PATIENCE,
        }
    }

    /// Ready when it is time to [look](Self::look).
    pub(super) fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(context)
    }

    /// Adds what the client has earned since the last look, and subtracts the time. Returns whether
    /// it has any credit left.
    pub(super) fn look(&mut self, taken: u64) -> bool {
        let now = Instant::now();
        let bytes = taken.saturating_sub(self.taken);
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
        let left = (self.left + earned).saturating_sub(now - self.looked);
        self.left = left.min(PATIENCE);
        (self.looked, self.taken) = (now, taken);
        let next = now + self.left.max(LOOK_INTERVAL);
        self.timer.as_mut().reset(next);
        !self.left.is_zero()
    }
}
