//! Frames of a server, which are neither masked nor fragmented. Headers are written in front of
//! payloads; control frames are small enough to be copied.

use bytes::BufMut;

use super::Kind;

/// The longest header of a frame we send, in bytes.
pub const MAX_SERVER_HEADER: usize = 10;
/// The longest payload of a ping, pong or close, in bytes.
pub const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
/// The bit of permessage-deflate in the first byte of a deflated message.
pub(crate) const DEFLATED: u8 = 0x40;

/// A control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFrame<'a> {
    /// Asks for a pong with the same payload.
    Ping(&'a [u8]),
    /// Answers a ping with its payload.
    Pong(&'a [u8]),
    /// The last frame, with a code and a reason. A reason that is too long is cut between two
    /// characters.
    Close(Option<(u16, &'a str)>),
}

/// The length of the header of a message with `payload_len` bytes.
pub const fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => MAX_SERVER_HEADER,
    }
}

/// Writes the header of a whole message; its payload belongs right after it.
pub fn encode_header(kind: Kind, payload_len: usize, out: &mut impl BufMut) {
    out.put_u8(match kind {
        Kind::Text => FIN | 1,
        Kind::Binary => FIN | 2,
    });
    match header_len(payload_len) {
        2 => out.put_u8(payload_len as u8),
        4 => {
            out.put_u8(126);
            out.put_u16(payload_len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload_len as u64);
        }
    }
}

/// Writes a whole control frame, at most 2 + [`MAX_CONTROL`] bytes.
///
/// # Panics
/// If the payload of a ping or pong is longer than [`MAX_CONTROL`]; that of a received ping never
/// is.
pub fn encode_control(control: ControlFrame<'_>, out: &mut impl BufMut) {
    match control {
        ControlFrame::Ping(payload) => put_control(FIN | 9, payload, &[], out),
        ControlFrame::Pong(payload) => put_control(FIN | 10, payload, &[], out),
        ControlFrame::Close(None) => put_control(FIN | 8, &[], &[], out),
        ControlFrame::Close(Some((code, reason))) => {
            let code = code.to_be_bytes();
            let end = reason.floor_char_boundary(MAX_CONTROL - code.len());
            put_control(FIN | 8, &code, &reason.as_bytes()[..end], out);
        }
    }
}

fn put_control(first: u8, payload: &[u8], more: &[u8], out: &mut impl BufMut) {
    let length = payload.len() + more.len();
    assert!(length <= MAX_CONTROL, "control frame of {length} bytes");
    out.put_u8(first);
    out.put_u8(length as u8);
    out.put_slice(payload);
    out.put_slice(more);
}
