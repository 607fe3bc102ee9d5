//! WebSocket frames as a load needs them: finds a server's frames in a buffer without copying, and
//! writes a client's.
//!
//! It does far less than a WebSocket library, because the server must be the slow side. All
//! messages of a load have one length, so a message of any other length is skipped.

use bytes::{BufMut, BytesMut};

use super::dialect::{Dialect, HEARTBEAT};
use super::inflate::SLACK;

/// The next thing in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A whole message, which may be one of this load.
    Message(Received<'a>),
    /// The header of a message that cannot be ours; this many bytes of payload follow it.
    Foreign(usize),
    Control(Control<'a>),
}

/// The payload of a message, as the server sent it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// It has the length of this load's messages.
    Plain(&'a [u8]),
    /// It may have that length once it is inflated.
    Deflated(&'a [u8]),
}

/// Everything that is no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    Ping(&'a [u8]),
    /// A heartbeat of the dialect, which is a message to WebSocket.
    Heartbeat,
    Pong,
    /// With its code, if it has one.
    Close(Option<u16>),
}

/// Why a server's frame is not allowed.
pub(super) type Violation = &'static str;

const TOO_LARGE: Violation = "the server sends a frame larger than memory";

/// First bytes of the frames that a client sends.
pub(super) const TEXT: u8 = FIN | 1;
pub(super) const CLOSE: u8 = FIN | 8;
pub(super) const PONG: u8 = FIN | 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// The reserved bit of a deflated message.
const DEFLATED: u8 = 0x40;
const MASKED: u8 = 0x80;
const OPCODE: u8 = 0x0f;
/// Opcodes from here on are control frames.
const FIRST_CONTROL: u8 = 8;
/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: usize = 125;
/// The longest header of a server's frame, in bytes.
const MAX_HEADER: usize = 10;
/// The longest header of a client's frame, which has a mask, in bytes.
const MAX_MASKED_HEADER: usize = 14;

/// The form that all messages of a load have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a payload, with what the dialect puts around a message.
    pub(super) length: usize,
    /// Whether the server may deflate it.
    pub(super) deflate: bool,
    pub(super) dialect: Dialect,
}

impl Shape {
    /// The most bytes that are ever kept of a frame whose end has not arrived.
    pub(super) fn longest_partial(self) -> usize {
        MAX_HEADER + (self.length + SLACK).max(MAX_CONTROL)
    }

    /// Whether a payload of this length may be a message of the load.
    #[inline]
    fn may_be_ours(self, length: usize, deflated: bool) -> bool {
        if deflated {
            length <= self.length + SLACK
        } else {
            length == self.length || self.may_be_heartbeat(length)
        }
    }

    #[inline]
    fn may_be_heartbeat(self, length: usize) -> bool {
        self.dialect == Dialect::SocketIo && length == HEARTBEAT.len()
    }
}

/// The header of a server's frame.
struct Header {
    opcode: u8,
    /// Whether the message ends with this frame.
    is_last: bool,
    deflated: bool,
    /// Bytes of the header itself.
    size: usize,
    /// Bytes of the payload.
    length: usize,
}

/// The frame at the beginning of `bytes`, and how many bytes it takes. Of a foreign message that is
/// only the header. `None` if it has not arrived as a whole.
#[inline]
pub(super) fn next(bytes: &[u8], message: Shape) -> Result<Option<(Next<'_>, usize)>, Violation> {
    let Some(header) = Header::parse(bytes, message)? else {
        return Ok(None);
    };
    if header.is_control() {
        header.check_control()?;
    } else if header.is_foreign(message) {
        return Ok(Some((Next::Foreign(header.length), header.size)));
    }
    // From here on the payload is needed, and short enough to wait for all of it.
    let end = header.size + header.length;
    let payload = bytes.get(header.size..end);
    Ok(payload.map(|payload| (header.interpret(payload, message), end)))
}

impl Header {
    /// `None` if it has not arrived as a whole.
    #[inline]
    fn parse(bytes: &[u8], message: Shape) -> Result<Option<Self>, Violation> {
        let [first, second, after @ ..] = bytes else {
            return Ok(None);
        };
        // Checked before the length, because a wrong frame is never waited for.
        let deflated = check_bits(*first, *second, message)?;
        let Some((length, size)) = payload_length(*second, after) else {
            return Ok(None);
        };
        Ok(Some(Self {
            opcode: first & OPCODE,
            is_last: first & FIN != 0,
            deflated,
            size,
            length: usize::try_from(length).map_err(|_| TOO_LARGE)?,
        }))
    }

    #[inline]
    fn is_control(&self) -> bool {
        self.opcode >= FIRST_CONTROL
    }

    #[inline]
    fn check_control(&self) -> Result<(), Violation> {
        if self.length > MAX_CONTROL || self.deflated {
            return Err("the server sends control frames that no server may send");
        }
        Ok(())
    }

    /// A load's messages are published in one frame. A server that fragments a message has not
    /// received it from us, or has changed it.
    #[inline]
    fn is_foreign(&self, message: Shape) -> bool {
        let is_fragment = self.opcode == 0 || !self.is_last;
        is_fragment || !message.may_be_ours(self.length, self.deflated)
    }

    #[inline]
    fn interpret<'a>(&self, payload: &'a [u8], message: Shape) -> Next<'a> {
        match self.opcode {
            8 => Next::Control(Control::Close(close_code(payload))),
            9 => Next::Control(Control::Ping(payload)),
            10 => Next::Control(Control::Pong),
            _ if self.deflated => Next::Message(Received::Deflated(payload)),
            _ => plain(payload, message),
        }
    }
}

/// Returns whether the frame is deflated.
#[inline]
fn check_bits(first: u8, second: u8, message: Shape) -> Result<bool, Violation> {
    let reserved = first & RESERVED;
    let deflated = reserved == DEFLATED && message.deflate;
    // Only clients mask, and reserved bits have a meaning only if it was negotiated.
    let is_masked = second & MASKED != 0;
    if reserved != 0 && !deflated || is_masked {
        return Err("the server sends frames that no server may send");
    }
    Ok(deflated)
}

/// The length of a payload, and how many bytes of header that makes. `None` if the length has not
/// arrived as a whole.
#[inline]
fn payload_length(second: u8, after: &[u8]) -> Option<(u64, usize)> {
    Some(match second {
        126 => (u16::from_be_bytes(*after.first_chunk()?).into(), 4),
        127 => (u64::from_be_bytes(*after.first_chunk()?), MAX_HEADER),
        short => (short.into(), 2),
    })
}

#[inline]
fn close_code(payload: &[u8]) -> Option<u16> {
    payload.first_chunk().map(|code| u16::from_be_bytes(*code))
}

#[inline]
fn plain(payload: &[u8], message: Shape) -> Next<'_> {
    if message.dialect == Dialect::SocketIo && payload == HEARTBEAT {
        Next::Control(Control::Heartbeat)
    } else {
        Next::Message(Received::Plain(payload))
    }
}

/// Writes a frame as a client sends it, with a mask of its own.
pub(super) fn put_frame(first: u8, payload: &[u8], output: &mut BytesMut) {
    // Once for the whole frame.
    output.reserve(MAX_MASKED_HEADER + payload.len());
    output.put_u8(first);
    put_length(payload.len(), output);
    // RFC 6455 demands a mask that others cannot predict.
    let mask: [u8; 4] = rand::random();
    output.put_slice(&mask);
    let start = output.len();
    output.put_slice(payload);
    apply_mask(&mut output[start..], mask);
}

fn put_length(length: usize, output: &mut BytesMut) {
    match length {
        0..=125 => output.put_u8(MASKED | length as u8),
        126..=0xffff => {
            output.put_u8(MASKED | 126);
            output.put_u16(length as u16);
        }
        _ => {
            output.put_u8(MASKED | 127);
            output.put_u64(length as u64);
        }
    }
}

/// Four bytes at once, because every published message passes here.
fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, tail) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests;
