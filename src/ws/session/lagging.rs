//! Slow clients: the feed has dropped batches that this session has not written.

use super::{CloseReason, Session};
use crate::config::SlowClient;
use crate::feed::Taken;
use crate::metrics::LossCause;

impl Session {
    /// The feed has moved on without this session, which is closed or skipped ahead. An item that
    /// was begun has to be ended first: its batch goes into `taken` and its end is returned.
    pub(super) fn lagged(&mut self, taken: &mut Taken) -> Option<usize> {
        let unfinished = self.output.unfinished_item();
        match self.shared.slow_client {
            SlowClient::Disconnect => self.end_lagging(),
            SlowClient::Skip if unfinished.is_none() => self.skip_ahead(),
            // It is skipped ahead once the item is written.
            SlowClient::Skip => {}
        }
        let (batch, end) = unfinished?;
        taken.push(batch);
        Some(end)
    }

    fn end_lagging(&mut self) {
        if self.closing().is_none() {
            self.close_slow();
            return;
        }
        // It was ending anyway, and ends here with what it has.
        self.count_slow(SlowClient::Disconnect);
        self.push_close();
    }

    fn skip_ahead(&mut self) {
        self.count_slow(SlowClient::Skip);
        let missed = self.output.cursor.skip_to_newest();
        self.shared
            .metrics
            .lost(LossCause::SlowClient, missed.count().unwrap_or(0));
        self.output.push_gap(missed);
    }

    /// Closes a client that takes its bytes too slowly.
    pub(super) fn close_slow(&mut self) {
        self.count_slow(SlowClient::Disconnect);
        self.begin_close(CloseReason::Slow, "too slow, come back");
    }

    fn count_slow(&self, policy: SlowClient) {
        self.shared
            .metrics
            .slow_clients
            .with_label_values(&[policy.label()])
            .inc();
    }
}
