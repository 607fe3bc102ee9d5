//! Bytes that a client has sent and its session has not decoded: the rest of a read for which there
//! was no time or no room, and how much of an unfinished message the decoder holds. It counts all
//! of that in the memory budget.

use std::sync::Arc;

use crate::budget::{Budget, Charge, Part};

/// Less than this is not worth counting: with headers of frames that lie across two reads, it would
/// come and go all the time.
const LEAST: usize = 4 * 1024;

/// Bytes that a client has sent and that wait. Most sessions have none.
#[derive(Debug)]
pub(super) struct Undecoded {
    /// Bytes that are not decoded.
    pub(super) bytes: Vec<u8>,
    /// Visits of the keepalive since a message was completed.
    pub(super) visits: u16,
    charge: Charge,
}

impl Undecoded {
    /// Holds these bytes, beside what the decoder holds; `None` if that is not worth it.
    pub(super) fn new(bytes: &[u8], held: usize, budget: &Arc<Budget>) -> Option<Box<Self>> {
        if bytes.is_empty() && held < LEAST {
            return None;
        }
        let charge = budget.charge(Part::Input, bytes.len() + held);
        Some(Box::new(Self {
            bytes: bytes.to_vec(),
            visits: 0,
            charge,
        }))
    }

    /// Drops the first bytes, which are decoded. Now the decoder holds `held`; returns whether to
    /// keep it.
    pub(super) fn advance(&mut self, taken: usize, held: usize) -> bool {
        self.bytes.drain(..taken);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        self.charge.set(self.bytes.capacity() + held);
        !self.bytes.is_empty() || held >= LEAST
    }
}
