//! Lengths, fragments and memory of messages, up to their limits.

use std::iter;

use echocast::frame::{Decoder, Limits, Violation};
use echocast::message::Kind;

use super::wire::{BINARY, FIN, Frame, Length, TEXT, bytes, frame, join};
use super::{Heard, LIMITS, read};

#[test]
fn an_idle_connection_holds_nothing() {
    assert!(size_of::<Decoder>() <= 16);
    let mut decoder = Decoder::new();
    let mut feed = |input: &[u8]| {
        let outcome = decoder.decode(&LIMITS, &mut input.to_vec(), |_| {});
        (outcome.is_ok(), decoder.held_bytes() > 0)
    };
    let message = join(&[
        frame(0x01, vec![b'a'; 500]),
        frame(0x89, "ping"),
        frame(0x00, ""),
        frame(0x80, "b"),
    ]);
    for end in 1..message.len() {
        assert_eq!(
            feed(&message[..end]),
            (true, true),
            "{end} bytes of a message"
        );
        assert_eq!(
            feed(&message[end..]),
            (true, false),
            "a whole message, split at {end}"
        );
    }
    assert_eq!(feed(&bytes(0x01, "begun")), (true, true));
    assert_eq!(feed(&bytes(0x83, "")), (false, false), "after a violation");
}

#[test]
fn a_length_that_is_only_declared_reserves_nothing() {
    let limits = Limits {
        max_message: 16 << 20,
        max_fragments: 10,
        deflate: false,
    };
    for kind in [TEXT, BINARY] {
        let claim = Frame {
            length: Length::Claimed(16 << 20),
            ..frame(FIN | kind, vec![b'a'; 1000])
        };
        let mut input = claim.bytes();
        let (header, payload) = input.split_at_mut(claim.header().len());
        let mut decoder = Decoder::new();
        for (piece, most) in [(header, 256), (payload, 256 + 2 * 1000)] {
            assert_eq!(decoder.decode(&limits, piece, |_| {}), Ok(()));
            assert!(decoder.is_mid_message());
            assert!(
                decoder.held_bytes() <= most,
                "{} bytes",
                decoder.held_bytes()
            );
        }
    }
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let limits = Limits {
        max_message: 300,
        max_fragments: 10,
        deflate: false,
    };
    let too_big = Err(Violation::TooBig { limit: 300 });
    for first in [0, 1, 150, 299, 300] {
        let fragments = |last: usize| {
            [
                frame(0x02, vec![1; first]),
                frame(0x89, [2; 125]),
                frame(0x80, vec![1; last]),
            ]
        };
        let heard = vec![
            Heard::Ping(vec![2; 125]),
            Heard::Message(Kind::Binary, vec![1; 300]),
        ];
        assert_eq!(
            read(&limits, [&join(&fragments(300 - first))[..]]).heard,
            heard
        );
        let over = fragments(301 - first);
        assert_eq!(read(&limits, [&join(&over)[..]]).verdict, too_big);
        let before_its_payload = [join(&over[..2]), over[2].header()].concat();
        assert_eq!(read(&limits, [&before_its_payload[..]]).verdict, too_big);
    }
    assert_eq!(read(&limits, [&bytes(0x82, [1; 300])[..]]).verdict, Ok(()));
    assert_eq!(read(&limits, [&bytes(0x82, [1; 301])[..]]).verdict, too_big);
}

#[test]
fn a_message_may_have_as_many_fragments_as_the_limit_and_not_one_more() {
    let limits = Limits {
        max_message: 1000,
        max_fragments: 5,
        deflate: false,
    };
    for payload in ["", "x"] {
        let fragments = |count: usize| {
            let middle =
                iter::repeat_n([frame(0x00, payload), frame(0x8a, "")], count - 2).flatten();
            iter::once(frame(0x01, payload))
                .chain(middle)
                .chain([frame(0x80, payload)])
                .collect::<Vec<_>>()
        };
        // Twice: the count begins anew with each message.
        let enough = join(&[fragments(5), fragments(5)].concat());
        let messages = read(&limits, [&enough[..]])
            .heard
            .into_iter()
            .filter(|heard| !matches!(heard, Heard::Pong(_)));
        assert_eq!(
            messages.collect::<Vec<_>>(),
            [(); 2].map(|()| Heard::Message(Kind::Text, payload.repeat(5).into()))
        );

        let violation = read(&limits, [&join(&fragments(6))[..]])
            .verdict
            .expect_err("one more");
        assert_eq!(
            (violation, violation.close_code()),
            (Violation::TooManyFragments { limit: 5 }, 1009)
        );
    }
}
