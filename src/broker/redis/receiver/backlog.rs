//! Payloads that a receiver holds back while its channel catches up.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Budget, Charge, Part};

/// Bytes held back for one channel. The rest is dropped, and read from the history instead.
const BACKLOG_BYTES: usize = 4 * 1024 * 1024;

/// As many of them are held back even if the memory budget has no room: a channel that drops each
/// message could never catch up.
const LEAST_BACKLOG: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    payloads: Vec<Bytes>,
    bytes: usize,
    /// Everything was dropped at least once, because it was too much.
    pub(super) overflowed: bool,
    /// So many of the payloads came before Redis was last asked for its newest message. What of
    /// these is not in the history then never was, or is no more.
    asked: usize,
    charge: Option<Charge>,
}

/// A payload that was held back.
pub(super) struct HeldBack {
    pub(super) payload: Bytes,
    /// It came before Redis was last asked for its newest message.
    pub(super) before_asking: bool,
}

impl Backlog {
    /// Adds a payload, or drops all if they are too many or the memory budget has no room for them.
    pub(super) fn push(&mut self, payload: Bytes, budget: &Arc<Budget>) {
        self.bytes += payload.len();
        let charge = self
            .charge
            .get_or_insert_with(|| budget.charge(Part::Pages, 0));
        charge.grow(payload.len());
        if self.bytes > BACKLOG_BYTES || (self.bytes > LEAST_BACKLOG && !charge.has_room()) {
            *self = Self {
                overflowed: true,
                ..Self::default()
            };
        } else {
            self.payloads.push(payload);
        }
    }

    /// Redis is about to be asked for its newest message.
    pub(super) fn ask(&mut self) {
        self.asked = self.payloads.len();
    }

    /// The payloads held back, in order.
    pub(super) fn into_payloads(self) -> impl Iterator<Item = HeldBack> {
        let asked = self.asked;
        let payloads = self.payloads.into_iter().enumerate();
        payloads.map(move |(place, payload)| HeldBack {
            payload,
            before_asking: place < asked,
        })
    }
}
