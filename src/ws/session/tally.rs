//! The account of a shard's turn: bytes and messages that its sessions have sent, and the work that
//! a visit has caused.

use crate::metrics::{Metrics, Transport};

/// Bytes and messages of many sessions, counted at once: counting each write would cost all cores
/// the same memory.
#[derive(Debug, Default)]
pub(in crate::ws) struct Tally {
    websocket: Sent,
    events: Sent,
    /// Bytes that were inflated, parsed or encoded in the current visit.
    pub(in crate::ws) work: usize,
}

#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

/// Work of one visit after which other sessions get their turn, in bytes that are inflated, parsed
/// or encoded.
const VISIT_WORK: usize = 256 * 1024;

impl Tally {
    /// Counts it, and begins anew.
    pub(in crate::ws) fn count(&mut self, metrics: &Metrics) {
        for (sent, transport) in [
            (&mut self.websocket, &metrics.websocket),
            (&mut self.events, &metrics.events),
        ] {
            let Sent { bytes, messages } = std::mem::take(sent);
            if bytes > 0 {
                transport.sent_bytes.inc_by(bytes);
                transport.delivered.inc_by(messages);
            }
        }
    }

    /// Whether a session has used its visit up.
    pub(super) fn is_used_up(&self) -> bool {
        self.work >= VISIT_WORK
    }

    pub(super) fn sent(&mut self, transport: Transport) -> &mut Sent {
        if transport == Transport::Events {
            &mut self.events
        } else {
            &mut self.websocket
        }
    }
}
