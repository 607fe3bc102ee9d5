//! A message that arrives in several reads or frames: its memory, and whether its text is UTF-8.

use super::{Kind, Limits, Violation, utf8};

/// A message of which some has arrived.
#[derive(Debug)]
pub(super) struct Assembly {
    kind: Kind,
    /// The payload is to be inflated once it is complete.
    deflated: bool,
    payload: Vec<u8>,
    /// Bytes at the beginning of the payload that are complete UTF-8 characters, if it is text.
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

    /// Adds bytes. Their header has been held against the limits.
    pub(super) fn append(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), Violation> {
        // The length in a header is only a claim. The buffer grows to twice what has arrived.
        let needed = self.payload.len() + bytes.len();
        if needed > self.payload.capacity() {
            let wanted = needed.saturating_mul(2).min(limits.max_message).max(needed);
            self.payload.reserve_exact(wanted - self.payload.len());
        }
        self.payload.extend_from_slice(bytes);
        // Bad text is a violation at its first bad byte, not only when the message is complete.
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
