//! Frames as a client sees them: a server's, found in a buffer without copying, and its own. Far
//! less than a WebSocket library does, and so fast that it is not the server who waits: a load's
//! messages all have one length, and whatever has another is passed over.

use bytes::{BufMut, BytesMut};

use super::dialect::{Dialect, HEARTBEAT};
use super::inflate::SLACK;

/// What comes next in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A whole message of the length that was asked for.
    Message(&'a [u8]),
    /// A whole deflated message, which may be one of that length.
    Deflated(&'a [u8]),
    /// The header of a message that cannot be ours; this many bytes of payload follow it.
    Foreign(usize),
    Ping(&'a [u8]),
    /// One of the dialect's, which is a message to WebSocket.
    Heartbeat,
    Pong,
    /// With its code, if it has one.
    Close(Option<u16>),
    /// The rest of it has not arrived.
    Incomplete,
}

/// First bytes of the frames a client sends.
pub(super) const TEXT: u8 = FIN | 1;
pub(super) const CLOSE: u8 = FIN | 8;
pub(super) const PONG: u8 = FIN | 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// The reserved bit that says a message is deflated.
const DEFLATED: u8 = 0x40;
const MASKED: u8 = 0x80;
const OPCODE: u8 = 0x0f;
/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;
/// The longest header of a server's frame.
const MAX_HEADER: usize = 10;

/// What messages of a load look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a payload, with what the dialect puts around a message.
    pub(super) length: usize,
    /// Whether the server may deflate them.
    pub(super) deflate: bool,
    pub(super) dialect: Dialect,
}

impl Shape {
    /// The most bytes that ever have to be kept of a frame whose end has not arrived.
    pub(super) fn longest_kept(self) -> usize {
        MAX_HEADER + (self.length + SLACK).max(MAX_CONTROL)
    }
}

/// The frame at the beginning of `bytes`, and how many bytes it takes.
#[inline]
pub(super) fn next(bytes: &[u8], message: Shape) -> Result<(Next<'_>, usize), &'static str> {
    let [first, second, after @ ..] = bytes else {
        return Ok((Next::Incomplete, 0));
    };
    let reserved = first & RESERVED;
    let deflated = reserved == DEFLATED && message.deflate;
    if reserved != 0 && !deflated || second & MASKED != 0 {
        return Err("the server sends frames that no server may send");
    }
    let (length, header) = match second {
        126 => {
            let Some(&length) = after.first_chunk() else {
                return Ok((Next::Incomplete, 0));
            };
            (u16::from_be_bytes(length).into(), 4)
        }
        127 => {
            let Some(&length) = after.first_chunk() else {
                return Ok((Next::Incomplete, 0));
            };
            (u64::from_be_bytes(length), MAX_HEADER)
        }
        &short => (short.into(), 2),
    };
    let length =
        usize::try_from(length).map_err(|_| "the server sends a frame larger than memory")?;
    let opcode = first & OPCODE;
    if opcode < 8 {
        // A message in several frames is one by somebody who splits what we said whole.
        let ours = if deflated {
            length <= message.length + SLACK
        } else {
            length == message.length
        };
        let heartbeat = message.dialect == Dialect::SocketIo && length == HEARTBEAT.len();
        if !(ours || heartbeat) || opcode == 0 || first & FIN == 0 {
            return Ok((Next::Foreign(length), header));
        }
    } else if length > MAX_CONTROL || deflated {
        return Err("the server sends control frames that no server may send");
    }
    let Some(payload) = bytes.get(header..header + length) else {
        return Ok((Next::Incomplete, 0));
    };
    let next = match opcode {
        8 => Next::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
        9 => Next::Ping(payload),
        10 => Next::Pong,
        _ if deflated => Next::Deflated(payload),
        _ if message.dialect == Dialect::SocketIo && payload == HEARTBEAT => Next::Heartbeat,
        _ => Next::Message(payload),
    };
    Ok((next, header + length))
}

/// Writes a frame as clients send it, masked with a key of its own.
pub(super) fn put_frame(first: u8, payload: &[u8], out: &mut BytesMut) {
    out.reserve(14 + payload.len());
    out.put_u8(first);
    match payload.len() {
        length @ 0..=125 => out.put_u8(MASKED | length as u8),
        length @ 126..=0xffff => {
            out.put_u8(MASKED | 126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(MASKED | 127);
            out.put_u64(length as u64);
        }
    }
    let key: [u8; 4] = rand::random();
    out.put_slice(&key);
    let at = out.len();
    out.put_slice(payload);
    let (words, tail) = out[at..].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(key) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(length: usize) -> Shape {
        Shape {
            length,
            deflate: false,
            dialect: Dialect::Plain,
        }
    }

    #[test]
    fn every_kind_of_frame_is_found_and_the_rest_left() {
        for (bytes, found) in [
            (&b"\x81\x02hi!"[..], Ok((Next::Message(b"hi"), 4))),
            (b"\x82\x02hi", Ok((Next::Message(b"hi"), 4))),
            (b"\x81\x03hey", Ok((Next::Foreign(3), 2))),
            (b"\x01\x02hi", Ok((Next::Foreign(2), 2))),
            (b"\x80\x02hi", Ok((Next::Foreign(2), 2))),
            (b"\x89\x01p", Ok((Next::Ping(b"p"), 3))),
            (b"\x8a\x00", Ok((Next::Pong, 2))),
            (b"\x88\x05\x03\xf4bye", Ok((Next::Close(Some(1012)), 7))),
            (b"\x88\x00", Ok((Next::Close(None), 2))),
        ] {
            assert_eq!(next(bytes, plain(2)), found, "{bytes:?}");
        }
    }

    #[test]
    fn all_three_forms_of_a_length_are_read() {
        for (length, header) in [
            (125, &[0x81, 125][..]),
            (126, &[0x81, 126, 0, 126]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut frame = header.to_vec();
            frame.resize(header.len() + length, b'x');
            assert_eq!(
                next(&frame, plain(length)),
                Ok((Next::Message(&frame[header.len()..]), frame.len()))
            );
            assert_eq!(
                next(&frame, plain(1)),
                Ok((Next::Foreign(length), header.len()))
            );
        }
    }

    #[test]
    fn a_frame_cut_anywhere_waits_for_its_rest() {
        let mut frame = vec![0x81, 126, 0, 200];
        frame.resize(204, b'x');
        for cut in 0..frame.len() {
            assert_eq!(
                next(&frame[..cut], plain(200)),
                Ok((Next::Incomplete, 0)),
                "{cut}"
            );
            assert!(cut <= plain(200).longest_kept());
        }
        assert_eq!(next(b"\x89\x02p", plain(200)), Ok((Next::Incomplete, 0)));
    }

    #[test]
    fn deflated_messages_are_found_where_they_may_be() {
        let message = Shape {
            length: 9,
            deflate: true,
            dialect: Dialect::Plain,
        };
        assert_eq!(next(b"\xc1\x02hi", message), Ok((Next::Deflated(b"hi"), 4)));
        assert_eq!(
            next(b"\xc1\x7e\x01\x00", message),
            Ok((Next::Foreign(256), 4))
        );
        assert_eq!(next(b"\x81\x02hi", message), Ok((Next::Foreign(2), 2)));
        assert!(next(b"\xc9\x00", message).is_err());
        assert!(next(b"\xa1\x00", message).is_err());
    }

    #[test]
    fn heartbeats_are_found_where_the_dialect_has_them() {
        let message = Shape {
            length: 9,
            deflate: false,
            dialect: Dialect::SocketIo,
        };
        assert_eq!(next(b"\x81\x012", message), Ok((Next::Heartbeat, 3)));
        assert_eq!(next(b"\x81\x01", message), Ok((Next::Incomplete, 0)));
        assert_eq!(next(b"\x81\x016", message), Ok((Next::Message(b"6"), 3)));
        assert_eq!(next(b"\x81\x012", plain(9)), Ok((Next::Foreign(1), 2)));
    }

    #[test]
    fn what_a_client_writes_is_what_a_server_reads() {
        use echocast::frame::{Decoder, Event, Limits};
        use echocast::message::Kind;
        for length in [0, 3, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut out = BytesMut::new();
            put_frame(TEXT, &payload, &mut out);
            put_frame(PONG, b"beat", &mut out);
            put_frame(CLOSE, &1000_u16.to_be_bytes(), &mut out);
            let mut read = 0;
            let limits = Limits {
                max_message: 65_536,
                max_fragments: 1,
                deflate: false,
            };
            let decoded = Decoder::new().decode(&limits, &mut out, |event| {
                let expected = match read {
                    0 => Event::Message {
                        kind: Kind::Text,
                        payload: &payload,
                    },
                    1 => Event::Pong(b"beat"),
                    _ => Event::Close(Some((1000, ""))),
                };
                assert_eq!(event, expected);
                read += 1;
            });
            assert_eq!((decoded, read), (Ok(()), 3));
        }
    }

    #[test]
    fn what_no_server_may_send_is_an_error() {
        for bytes in [&b"\x81\x82keyshi"[..], b"\xc1\x02hi", b"\x89\x7e\x00\x80"] {
            assert!(next(bytes, plain(2)).is_err(), "{bytes:?}");
        }
    }
}
