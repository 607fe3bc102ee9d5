//! How fast a client may send: a token bucket, of messages, requests or bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that a client must take on average while something waits for it, and must send
/// on average while the node waits for it.
pub(crate) const LEAST_RATE: u64 = 4 * 1024;

/// A token bucket. It is full at first.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Tokens gained a second.
    per_second: f64,
    /// Tokens that it holds, and that may be taken at once, at most.
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Rate {
    /// This many messages or requests a second, and as many at once.
    pub(crate) fn new(per_second: u32) -> Self {
        Self::with_burst(u64::from(per_second), u64::from(per_second))
    }

    /// This many tokens a second, and `burst` at once.
    pub(crate) fn with_burst(per_second: u64, burst: u64) -> Self {
        let (per_second, burst) = (per_second as f64, burst as f64);
        Self {
            per_second,
            burst,
            tokens: burst,
            filled: Instant::now(),
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn allows(&mut self) -> bool {
        self.charge(1)
    }

    /// Takes this many tokens, or none if there are fewer.
    pub(crate) fn charge(&mut self, tokens: u64) -> bool {
        let allowed = self.fill() >= tokens as f64;
        if allowed {
            self.tokens -= tokens as f64;
        }
        allowed
    }

    /// Whole tokens that may be taken now.
    pub(crate) fn left(&mut self) -> u64 {
        self.fill() as u64
    }

    /// Whether it is the same as a new bucket.
    pub(crate) fn is_full(&mut self) -> bool {
        self.fill() >= self.burst
    }

    fn fill(&mut self) -> f64 {
        // Filled when it is used, so that idle buckets need no timer.
        let now = Instant::now();
        let gained =
            (now - std::mem::replace(&mut self.filled, now)).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.tokens
    }
}

/// How fast one connection may publish; `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PublishLimits {
    /// `--message-rate`: messages a second.
    pub messages: Option<u32>,
    /// `--byte-rate`: bytes of bodies a second.
    pub bytes: Option<u64>,
    /// `--max-message`: at least this many bytes may come at once.
    pub max_message: u64,
}

impl PublishLimits {
    /// Bytes that may come at once.
    pub(crate) fn byte_burst(&self) -> u64 {
        self.bytes.unwrap_or(0).max(self.max_message)
    }

    /// Whether anything is limited.
    pub(crate) fn any(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }

    /// How long it takes an empty bucket to be full.
    pub(crate) fn memory(&self) -> Duration {
        let bytes = self
            .bytes
            .map(|bytes| Duration::from_secs_f64(self.byte_burst() as f64 / bytes as f64));
        let messages = self.messages.map(|_| Duration::from_secs(1));
        bytes.max(messages).unwrap_or_default()
    }
}

/// The buckets of one connection that publishes.
#[derive(Debug)]
pub(crate) struct PublishRates {
    messages: Option<Mutex<Rate>>,
    bytes: Option<Mutex<Rate>>,
}

impl PublishRates {
    /// Full buckets.
    pub(crate) fn new(limits: PublishLimits) -> Self {
        let bytes = limits
            .bytes
            .map(|bytes| Rate::with_burst(bytes, limits.byte_burst()));
        Self {
            messages: limits.messages.map(Rate::new).map(Mutex::new),
            bytes: bytes.map(Mutex::new),
        }
    }

    /// Counts one more message; false if that is over the limit.
    pub(crate) fn allows_message(&self) -> bool {
        Self::all(&self.messages, Rate::allows)
    }

    /// How many more bytes may come now.
    pub(crate) fn bytes_left(&self) -> u64 {
        let bytes = self.bytes.as_ref();
        bytes.map_or(u64::MAX, |rate| lock(rate).left())
    }

    /// Counts this many bytes more; false if that is over the limit.
    pub(crate) fn allows_bytes(&self, bytes: usize) -> bool {
        Self::all(&self.bytes, |rate| rate.charge(bytes as u64))
    }

    /// Whether they are the same as new ones.
    pub(crate) fn is_fresh(&self) -> bool {
        Self::all(&self.messages, Rate::is_full) && Self::all(&self.bytes, Rate::is_full)
    }

    fn all(rate: &Option<Mutex<Rate>>, holds: impl FnOnce(&mut Rate) -> bool) -> bool {
        rate.as_ref().is_none_or(|rate| holds(&mut lock(rate)))
    }
}

pub(super) fn lock(rate: &Mutex<Rate>) -> MutexGuard<'_, Rate> {
    rate.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_gives_as_many_as_the_rate_and_no_more_than_the_burst_is_kept() {
        let mut rate = Rate::new(5);
        assert_eq!((0..9).filter(|_| rate.allows()).count(), 5);
        advance(Duration::from_millis(400)).await;
        assert_eq!((0..9).filter(|_| rate.allows()).count(), 2);
        advance(Duration::from_secs(60)).await;
        assert!(rate.is_full());
        assert_eq!((0..9).filter(|_| rate.allows()).count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn many_tokens_are_taken_together_or_not_at_all() {
        let mut rate = Rate::with_burst(100, 1000);
        assert!(!rate.charge(1001));
        assert_eq!(rate.left(), 1000);
        assert!(rate.charge(950) && !rate.charge(51) && rate.charge(50));
        assert_eq!(rate.left(), 0);
        advance(Duration::from_secs(2)).await;
        assert_eq!((rate.left(), rate.is_full()), (200, false));
    }
}
