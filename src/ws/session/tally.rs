//! What the sessions of a shard have sent in its turn, and how much work the current visit has
//! caused.

use crate::metrics::{Metrics, Transport};

/// Bytes and messages of many sessions. They are added to the metrics at once, because all cores
/// would contend for the counters at each write.
#[derive(Debug, Default)]
pub(in crate::ws) struct Tally {
    websocket: Sent,
    events: Sent,
    /// Bytes that were inflated, parsed or encoded in the current visit.
    pub(in crate::ws) work: usize,
}

#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    messages: u64,
}

/// Bytes inflated, parsed or encoded in one visit after which other sessions get their turn.
const VISIT_WORK: usize = 256 * 1024;

impl Tally {
    /// Adds it to the metrics, and begins anew.
    pub(in crate::ws) fn count(&mut self, metrics: &Metrics) {
        for (sent, transport) in [
            (&mut self.websocket, &metrics.websocket),
            (&mut self.events, &metrics.events),
        ] {
            let Sent { bytes, messages } = std::mem::take(sent);
            // Most turns of an idle node send nothing.
            if bytes > 0 {
                transport.sent_bytes.inc_by(bytes);
                transport.delivered.inc_by(messages);
            }
        }
    }

    /// Whether the current visit has done enough work.
    pub(super) fn is_used_up(&self) -> bool {
        self.work >= VISIT_WORK
    }

    /// Counts what one write has sent.
    #[inline]
    pub(super) fn count_sent(&mut self, transport: Transport, bytes: usize, messages: u64) {
        let sent = match transport {
            Transport::Events => &mut self.events,
            _ => &mut self.websocket,
        };
        sent.bytes += bytes as u64;
        sent.messages += messages;
    }
}
