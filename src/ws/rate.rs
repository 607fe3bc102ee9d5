//! How fast a client may talk.

use tokio::time::Instant;

/// A token bucket: as many messages at once as a second gives.
#[derive(Debug)]
pub(super) struct Rate {
    /// Tokens a second, and at most.
    limit: f64,
    tokens: f64,
    filled: Instant,
}

impl Rate {
    /// A full bucket. `limit` is in messages a second.
    pub(super) fn new(limit: u32) -> Self {
        let limit = f64::from(limit);
        Self { limit, tokens: limit, filled: Instant::now() }
    }

    /// Takes a token if there is one.
    pub(super) fn allows(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - std::mem::replace(&mut self.filled, now)).as_secs_f64() * self.limit;
        self.tokens = (self.tokens + gained).min(self.limit);
        let allowed = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(allowed));
        allowed
    }
}
