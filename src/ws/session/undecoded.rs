//! Memory of a session's input: bytes that are read and not decoded, because there was no time or
//! no room, and what the decoder holds. All of it counts in the memory budget.

use std::sync::Arc;

use crate::budget::{Budget, Charge, Part};

/// What the decoder holds is counted from so many bytes on. Frame headers that lie across two reads
/// come and go all the time.
const LEAST: usize = 4 * 1024;

/// Memory of one session's input. Most sessions have none.
#[derive(Debug)]
pub(super) struct Undecoded {
    /// Bytes that are not decoded.
    pub(super) bytes: Vec<u8>,
    /// Visits of the keepalive since a message was completed.
    pub(super) visits: u16,
    charge: Charge,
}

impl Undecoded {
    /// Keeps these bytes, and counts `held` more that the decoder holds. `None` if there is nothing
    /// to keep or to count.
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

    /// Drops the first `decoded` bytes. Now the decoder holds `held`. Returns whether this is still
    /// needed.
    pub(super) fn advance(&mut self, decoded: usize, held: usize) -> bool {
        self.bytes.drain(..decoded);
        if self.bytes.is_empty() {
            // Gives the memory back.
            self.bytes = Vec::new();
        }
        self.charge.set(self.bytes.capacity() + held);
        !self.bytes.is_empty() || held >= LEAST
    }
}
