//! Frames as a server sends them, whole and in pieces.

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
        (
            &b"\x81\x02hi!"[..],
            Ok(Some((Next::Message(Received::Plain(b"hi")), 4))),
        ),
        (
            b"\x82\x02hi",
            Ok(Some((Next::Message(Received::Plain(b"hi")), 4))),
        ),
        (b"\x81\x03hey", Ok(Some((Next::Foreign(3), 2)))),
        (b"\x01\x02hi", Ok(Some((Next::Foreign(2), 2)))),
        (b"\x80\x02hi", Ok(Some((Next::Foreign(2), 2)))),
        (
            b"\x89\x01p",
            Ok(Some((Next::Control(Control::Ping(b"p")), 3))),
        ),
        (b"\x8a\x00", Ok(Some((Next::Control(Control::Pong), 2)))),
        (
            b"\x88\x05\x03\xf4bye",
            Ok(Some((Next::Control(Control::Close(Some(1012))), 7))),
        ),
        (
            b"\x88\x00",
            Ok(Some((Next::Control(Control::Close(None)), 2))),
        ),
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
            Ok(Some((
                Next::Message(Received::Plain(&frame[header.len()..])),
                frame.len()
            )))
        );
        assert_eq!(
            next(&frame, plain(1)),
            Ok(Some((Next::Foreign(length), header.len())))
        );
    }
}

#[test]
fn a_frame_cut_anywhere_waits_for_its_rest() {
    let mut frame = vec![0x81, 126, 0, 200];
    frame.resize(204, b'x');
    for cut in 0..frame.len() {
        assert_eq!(next(&frame[..cut], plain(200)), Ok(None), "{cut}");
        assert!(cut <= plain(200).longest_partial());
    }
    assert_eq!(next(b"\x89\x02p", plain(200)), Ok(None));
}

#[test]
fn deflated_messages_are_found_where_they_may_be() {
    let message = Shape {
        length: 9,
        deflate: true,
        dialect: Dialect::Plain,
    };
    assert_eq!(
        next(b"\xc1\x02hi", message),
        Ok(Some((Next::Message(Received::Deflated(b"hi")), 4)))
    );
    assert_eq!(
        next(b"\xc1\x7e\x01\x00", message),
        Ok(Some((Next::Foreign(256), 4)))
    );
    assert_eq!(
        next(b"\x81\x02hi", message),
        Ok(Some((Next::Foreign(2), 2)))
    );
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
    assert_eq!(
        next(b"\x81\x012", message),
        Ok(Some((Next::Control(Control::Heartbeat), 3)))
    );
    assert_eq!(next(b"\x81\x01", message), Ok(None));
    assert_eq!(
        next(b"\x81\x016", message),
        Ok(Some((Next::Message(Received::Plain(b"6")), 3)))
    );
    assert_eq!(
        next(b"\x81\x012", plain(9)),
        Ok(Some((Next::Foreign(1), 2)))
    );
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
