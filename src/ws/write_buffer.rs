//! Frames for one client alone: its greeting, pings, pongs, answers, gap marks and the close. They
//! wait here until the current item of the channel is written.

use crate::frame::{self, ControlFrame};
use crate::message::put_text;

/// A ping without a payload.
const PING: [u8; 2] = [0x89, 0];

/// Frames that wait to be written to one client. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    /// Bytes of these that are written.
    sent: usize,
}

impl WriteBuffer {
    /// Begins with bytes that are framed already.
    pub(super) fn framed(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            sent: 0,
        }
    }

    pub(super) fn push(&mut self, frame: ControlFrame<'_>) {
        frame::encode_control(frame, &mut self.bytes);
    }

    /// Adds bytes that are framed already.
    pub(super) fn push_framed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds bytes before all others that wait. None of these may be partly written.
    pub(super) fn push_first(&mut self, bytes: &[u8]) {
        self.bytes
            .splice(self.sent..self.sent, bytes.iter().copied());
    }

    pub(super) fn push_text(&mut self, text: &[u8]) {
        put_text(text, &mut self.bytes);
    }

    /// The bytes that are not written.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// How many bytes are not written.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether the first of the frames is partly written: its rest comes before everything else.
    pub(super) fn is_begun(&self) -> bool {
        self.sent > 0
    }

    /// Bytes of memory in use. Written ones count until all are written.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Whether one of our pings is the last frame that waits. A frame whose payload ends with the
    /// same two bytes is mistaken for one. Then the next ping is one interval late.
    pub(super) fn ends_with_ping(&self) -> bool {
        self.rest().ends_with(&PING)
    }

    /// So many bytes more are written.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        }
    }
}
