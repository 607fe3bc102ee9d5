//! Headers of client frames, and the code and reason of a close: the rules of RFC 6455, sections 5.2
//! to 5.5 and 7.4. The decoder collects payloads.

use super::assembly::Assembly;
use super::encode::{DEFLATED, MAX_CONTROL, MAX_SERVER_HEADER};
use super::{Kind, Limits, Violation, utf8};

/// The longest header of a client's frame, in bytes: ours and a masking key.
pub(super) const MAX_CLIENT_HEADER: usize = MAX_SERVER_HEADER + 4;

const FIN: u8 = 0x80;
/// The bits that only a negotiated extension may set.
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// A frame whose header follows the rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) deflated: bool,
    /// Payload bytes that have not arrived.
    pub(super) missing: usize,
    /// The masking key, rotated so that it begins with the byte for the next payload byte.
    pub(super) key: [u8; 4],
}

/// The opcode of a frame. A continuation has the kind of the message it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Data(Kind),
    Close,
    Ping,
    Pong,
}

impl Frame {
    /// Reads the header at the beginning of `bytes`, and returns its length, too. `None` if `bytes`
    /// ends before the header does. `message` is the one that a continuation would continue.
    ///
    /// Each rule is applied as soon as its bytes are there, in the order of the bytes. So the first
    /// violation is the same however the input was split.
    // Inlined: returning the result through memory costs more than reading a header. A small frame
    // takes 16 ns, otherwise 30.
    #[inline(always)]
    pub(super) fn parse(
        limits: &Limits,
        bytes: &[u8],
        message: Option<&Assembly>,
    ) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        let opcode = parse_opcode(limits, first, message)?;

        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let Some((length, key_at)) = parse_length(second, &bytes[2..], opcode)? else {
            return Ok(None);
        };

        // Before any of the payload arrives, so that nothing too long is ever held.
        let missing = check_length(limits, length, opcode, message)?;
        let Some(&key) = bytes[key_at..].first_chunk() else {
            return Ok(None);
        };
        Ok(Some((
            Self {
                opcode,
                fin,
                deflated: first & DEFLATED != 0,
                missing,
                key,
            },
            key_at + 4,
        )))
    }
}

impl Opcode {
    fn is_data(self) -> bool {
        matches!(self, Self::Data(_))
    }
}

/// Holds a payload's length against the limits.
#[inline]
fn check_length(
    limits: &Limits,
    length: u64,
    opcode: Opcode,
    message: Option<&Assembly>,
) -> Result<usize, Violation> {
    let held = message
        .filter(|_| opcode.is_data())
        .map_or(0, Assembly::len);
    let room = limits.max_message.saturating_sub(held);
    match usize::try_from(length) {
        Ok(length) if length <= room || !opcode.is_data() => Ok(length),
        _ => Err(Violation::TooBig {
            limit: limits.max_message,
        }),
    }
}

/// The opcode in the first byte of a header.
fn parse_opcode(
    limits: &Limits,
    first: u8,
    message: Option<&Assembly>,
) -> Result<Opcode, Violation> {
    // Only the first frame of a message says whether it is deflated.
    let reserved = match (first & OPCODE, message) {
        (1 | 2, None) if limits.deflate => RESERVED & !DEFLATED,
        _ => RESERVED,
    };
    let broken_rule = match (first & OPCODE, message) {
        _ if first & reserved != 0 => "reserved bit set without an extension",
        (8..=10, _) if first & FIN == 0 => "fragmented control frame",
        (0, Some(message)) if message.fragments() >= limits.max_fragments => {
            return Err(Violation::TooManyFragments {
                limit: limits.max_fragments,
            });
        }
        (0, Some(message)) => return Ok(Opcode::Data(message.kind())),
        (0, None) => "continuation of no message",
        (1 | 2, Some(_)) => "new message before the end of a fragmented one",
        (1, None) => return Ok(Opcode::Data(Kind::Text)),
        (2, None) => return Ok(Opcode::Data(Kind::Binary)),
        (8, _) => return Ok(Opcode::Close),
        (9, _) => return Ok(Opcode::Ping),
        (10, _) => return Ok(Opcode::Pong),
        _ => "reserved opcode",
    };
    Err(Violation::Protocol(broken_rule))
}

/// The payload's length, and where in the header it ends. `after` follows the second byte. `None` if
/// it ends too early.
fn parse_length(
    second: u8,
    after: &[u8],
    opcode: Opcode,
) -> Result<Option<(u64, usize)>, Violation> {
    if second & MASKED == 0 {
        return Err(Violation::Protocol("client frame without a mask"));
    }
    let short = second & !MASKED;
    if !opcode.is_data() && usize::from(short) > MAX_CONTROL {
        return Err(Violation::Protocol("control frame longer than 125 bytes"));
    }
    // Each form has a smallest length, because shorter ones must use the form before.
    let (length, end, smallest) = match short {
        126 => {
            let Some(&bytes) = after.first_chunk() else {
                return Ok(None);
            };
            (u16::from_be_bytes(bytes).into(), 4, 126)
        }
        127 => {
            let Some(&bytes) = after.first_chunk() else {
                return Ok(None);
            };
            (u64::from_be_bytes(bytes), 10, 0x1_0000)
        }
        short => (short.into(), 2, 0),
    };
    if length > i64::MAX as u64 {
        return Err(Violation::Protocol(
            "length of 64 bits with the highest one set",
        ));
    }
    if length < smallest {
        return Err(Violation::Protocol("length not in its shortest form"));
    }
    Ok(Some((length, end)))
}

/// The code and reason of a close, if it has them. The code must be one that may be sent.
pub(super) fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Violation::Protocol("half a close code"))
        };
    };
    let code = u16::from_be_bytes(code);
    // 1004 to 1006 and 1015 are never on the wire; 1012 to 1014 were registered after the RFC.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("close code that may not be sent"));
    }
    Ok(Some((code, utf8::text(reason).ok_or(Violation::NotUtf8)?)))
}
