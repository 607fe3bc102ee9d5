//! Pings that were typed and are not answered yet.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Bytes;

/// Pings that are remembered. The oldest ones are forgotten.
const MAX_OPEN: usize = 16;

#[derive(Default)]
pub(super) struct Pings(VecDeque<Ping>);

struct Ping {
    payload: Bytes,
    sent_at: Instant,
}

impl Pings {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn sent(&mut self, payload: Bytes) {
        if self.0.len() == MAX_OPEN {
            self.0.pop_front();
        }
        self.0.push_back(Ping {
            payload,
            sent_at: Instant::now(),
        });
    }

    /// How long the pong took, if it answers a ping of ours.
    pub(super) fn answered(&mut self, payload: &Bytes) -> Option<Duration> {
        let index = self.0.iter().rposition(|ping| ping.payload == payload)?;
        // A server may answer only the newest of several pings, which answers the older ones, too.
        let ping = self.0.drain(..=index).next_back()?;
        Some(ping.sent_at.elapsed())
    }
}
