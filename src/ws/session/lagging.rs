//! Readers that are too slow: the feed has moved on without them.

use super::{CloseReason, Session};
use crate::config::SlowClient;
use crate::feed::Taken;
use crate::message::put_gap;
use crate::metrics::LossCause;

/// Visits of the keepalive after which a reader that lagged out in the middle of an item is closed.
const STUCK_VISITS: u8 = 2;

impl Session {
    /// The feed has moved on without this reader. A frame that was begun is ended first: its batch
    /// goes into `taken` and its end is returned. Then the reader is closed or skipped ahead.
    pub(super) fn lagged(&mut self, taken: &mut Taken) -> Option<usize> {
        let policy = self.shared.slow_client;
        let unfinished = self.cursor.unfinished_item(self.recipient.format);
        if policy == SlowClient::Disconnect {
            self.shared
                .metrics
                .slow_clients
                .with_label_values(&[policy.label()])
                .inc();
            // One that was ending anyway ends here, with what it has.
            match self.closing() {
                Some(_) => self.say_close(),
                None => self.begin_close(CloseReason::Slow, "too slow, come back"),
            }
        } else if unfinished.is_none() {
            self.shared
                .metrics
                .slow_clients
                .with_label_values(&[policy.label()])
                .inc();
            let missed = self.cursor.skip_to_newest();
            self.shared
                .metrics
                .lost(LossCause::SlowClient, missed.count().unwrap_or(0));
            let mut mark = Vec::new();
            put_gap(self.recipient.format, missed, &mut mark);
            self.write_buffer.push_framed(&mark);
        }
        let (batch, end) = unfinished?;
        taken.push(batch);
        Some(end)
    }

    /// Whether it has lagged out and not ended the item that it was in for two visits of the
    /// keepalive: until then nothing lets go of that batch, also where slow clients are skipped
    /// ahead.
    pub(super) fn is_stuck(&mut self) -> bool {
        self.stuck_visits = if self.cursor.is_stuck() {
            self.stuck_visits + 1
        } else {
            0
        };
        self.stuck_visits >= STUCK_VISITS
    }
}
