//! A message that is being put together from what arrives: how much memory it takes, and whether
//! its text is text.

use super::{Kind, Limits, Violation, utf8};

/// A message of which some has arrived.
#[derive(Debug)]
pub(super) struct Assembly {
    kind: Kind,
    /// Whether what arrives is still to be inflated.
    deflated: bool,
    payload: Vec<u8>,
    /// How much of the payload is known to be complete UTF-8 characters, if it is text.
    checked: usize,
    /// Frames that have arrived in full.
    fragments: u32,
}

impl Assembly {
    pub(super) fn new(kind: Kind, deflated: bool) -> Self {
        Self {
            kind,
            deflated,
            payload: Vec::new(),
            checked: 0,
            fragments: 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn is_deflated(&self) -> bool {
        self.deflated
    }

    /// Bytes that have arrived.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }

    /// Bytes held for it.
    pub(super) fn capacity(&self) -> usize {
        self.payload.capacity()
    }

    /// Frames that have arrived in full.
    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Takes the next bytes. The header they came under has been held against the limits.
    pub(super) fn append(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), Violation> {
        // What a header declares is a claim: room is made only for as much again as has arrived.
        let needed = self.payload.len() + bytes.len();
        if needed > self.payload.capacity() {
            let wanted = needed.saturating_mul(2).min(limits.max_message).max(needed);
            self.payload.reserve_exact(wanted - self.payload.len());
        }
        self.payload.extend_from_slice(bytes);
        if self.kind == Kind::Text && !self.deflated {
            self.checked +=
                utf8::complete_prefix(&self.payload[self.checked..]).ok_or(Violation::NotUtf8)?;
        }
        Ok(())
    }

    /// Ends a frame that is not the last.
    pub(super) fn end_fragment(&mut self) {
        self.fragments += 1;
    }

    /// The whole message, its last frame having arrived.
    pub(super) fn finish(&self) -> Result<&[u8], Violation> {
        if self.kind == Kind::Text && !self.deflated && self.checked < self.payload.len() {
            return Err(Violation::NotUtf8);
        }
        Ok(&self.payload)
    }
}
