//! Frames as a client sends them, with everything that can be wrong about them.

use std::iter;

pub(super) const KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;
pub(super) const FIN: u8 = 0x80;

/// How a frame states its length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Shortest,
    /// In 16 or 64 bits whether it needs them or not.
    In16,
    In64,
    /// In 64 bits, and not the truth.
    Claimed(u64),
}

/// A frame as a client sends it, with everything that can be wrong about it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) first: u8,
    pub(super) masked: bool,
    pub(super) length: Length,
    pub(super) key: [u8; 4],
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn header(&self) -> Vec<u8> {
        let (mask, length) = (
            if self.masked { 0x80 } else { 0 },
            self.payload.len() as u64,
        );
        let mut header = vec![self.first];
        match (self.length, length) {
            (Length::Shortest, 0..126) => header.push(mask | length as u8),
            (Length::Shortest, 126..0x1_0000) | (Length::In16, _) => {
                header.push(mask | 126);
                header.extend((length as u16).to_be_bytes());
            }
            (Length::Shortest | Length::In64, length) | (Length::Claimed(length), _) => {
                header.push(mask | 127);
                header.extend(length.to_be_bytes());
            }
        }
        if self.masked {
            header.extend(self.key);
        }
        header
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let key = if self.masked { self.key } else { [0; 4] };
        let mut bytes = self.header();
        bytes.extend(iter::zip(&self.payload, key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

pub(super) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame {
        first,
        masked: true,
        length: Length::Shortest,
        key: KEY,
        payload: payload.as_ref().to_vec(),
    }
}

pub(super) fn bytes(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload).bytes()
}

pub(super) fn join(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::bytes).collect()
}
