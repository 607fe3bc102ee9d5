//! The frame reader and writer by themselves: a table of hand-made inputs, properties over random
//! ones, and the same input given to two other implementations. How a node answers what they report
//! is tested at its front door.

mod limits;

mod others;
mod random;
mod wire;

use echocast::frame::{
    ControlFrame, Decoder, Event, Limits, MAX_SERVER_HEADER, Violation, encode_control,
    encode_header, header_len,
};
use echocast::message::Kind;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketContext};

use self::others::{Received, sockudo, tungstenite};
use self::random::{Defect, control, perform, say, scene, text, truncated};
use self::wire::{BINARY, CLOSE, FIN, Frame, Length, PING, bytes, frame, join};

/// Above 64 KiB, so that random scripts use all three forms of length.
const LIMITS: Limits = Limits {
    max_message: 80_000,
    max_fragments: 10_000,
    deflate: false,
};

/// An event that outlives the input.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind, payload } => Self::Message(kind, payload.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }
    }
}

/// All that a decoder makes of an input.
#[derive(Debug, PartialEq)]
struct Reading {
    heard: Vec<Heard>,
    verdict: Result<(), Violation>,
    mid_message: bool,
}

fn read<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let (mut decoder, mut heard, mut verdict, mut fed) = (Decoder::new(), Vec::new(), Ok(()), 0);
    for piece in pieces {
        fed += piece.len();
        let outcome = decoder.decode(limits, &mut piece.to_vec(), |event| {
            heard.push(event.into())
        });
        assert!(outcome.is_ok() || verdict.is_ok(), "a second violation");
        verdict = verdict.and(outcome);
        let held = decoder.held_bytes();
        assert!(held <= 256 + 2 * fed, "{held} bytes held of {fed}");
        assert_eq!(held > 0, decoder.is_mid_message());
    }
    Reading {
        heard,
        verdict,
        mid_message: decoder.is_mid_message(),
    }
}

fn read_whole(input: &[u8]) -> Reading {
    read(&LIMITS, [input])
}

#[test]
fn every_case_of_the_table_gets_the_verdict_of_the_rfc_whole_and_byte_by_byte() {
    let limits = Limits {
        max_message: 1 << 20,
        max_fragments: 1000,
        deflate: false,
    };
    let word = "κόσμε".as_bytes();
    let claim = |length, sent: usize| Frame {
        length: Length::Claimed(length),
        ..frame(FIN | BINARY, vec![0; sent])
    };
    // The close code it ends with, if it is refused.
    let cases: Vec<(&str, Option<u16>, Vec<u8>)> = vec![
        ("text", None, bytes(0x81, "hello")),
        ("empty text", None, bytes(0x81, "")),
        ("binary of 65536 bytes", None, bytes(0x82, vec![7; 65536])),
        ("ping of 125 bytes", None, bytes(0x89, [1; 125])),
        ("ping of 126 bytes", Some(1002), bytes(0x89, [1; 126])),
        ("pong of 126 bytes", Some(1002), bytes(0x8a, [1; 126])),
        ("fragmented ping", Some(1002), bytes(0x09, "x")),
        ("first reserved bit", Some(1002), bytes(0xc1, "x")),
        ("second reserved bit", Some(1002), bytes(0xa1, "x")),
        ("opcode 3", Some(1002), bytes(0x83, "x")),
        ("opcode 11", Some(1002), bytes(0x8b, "x")),
        ("unmasked", Some(1002), vec![0x81, 1, b'x']),
        ("continuation first", Some(1002), bytes(0x80, "x")),
        (
            "text inside fragments",
            Some(1002),
            join(&[frame(0x01, "a"), frame(0x81, "b")]),
        ),
        (
            "ping between fragments",
            None,
            join(&[frame(0x01, "a"), frame(0x89, "p"), frame(0x80, "b")]),
        ),
        ("text beyond ASCII", None, bytes(0x81, word)),
        (
            "text not UTF-8",
            Some(1007),
            bytes(0x81, [0xce, 0xba, 0xff]),
        ),
        (
            "text with a surrogate",
            Some(1007),
            bytes(0x81, [0xed, 0xa0, 0x80]),
        ),
        (
            "character over two fragments",
            None,
            join(&[frame(0x01, &word[..1]), frame(0x80, &word[1..])]),
        ),
        (
            "bad first fragment, then the last",
            Some(1007),
            join(&[frame(0x01, [0xff]), frame(0x80, "")]),
        ),
        (
            "text cut off in a character",
            Some(1007),
            bytes(0x81, &word[..1]),
        ),
        (
            "bad first fragment alone",
            Some(1007),
            bytes(0x01, [0xff, 0xff]),
        ),
        ("close without a code", None, bytes(0x88, "")),
        ("close with half a code", Some(1002), bytes(0x88, [3])),
        ("close 1000", None, bytes(0x88, 1000u16.to_be_bytes())),
        ("close 1005", Some(1002), bytes(0x88, 1005u16.to_be_bytes())),
        ("close 999", Some(1002), bytes(0x88, 999u16.to_be_bytes())),
        ("close 1016", Some(1002), bytes(0x88, 1016u16.to_be_bytes())),
        ("close 3000", None, bytes(0x88, 3000u16.to_be_bytes())),
        ("close 5000", Some(1002), bytes(0x88, 5000u16.to_be_bytes())),
        (
            "close with a reason not UTF-8",
            Some(1007),
            bytes(0x88, [3, 232, 0xff]),
        ),
        (
            "close of 126 bytes",
            Some(1002),
            bytes(0x88, [&[3, 232][..], &[b'a'; 124]].concat()),
        ),
        (
            "frame over the limit",
            Some(1009),
            claim(1 << 21, 16).bytes(),
        ),
        (
            "message over the limit",
            Some(1009),
            join(&[frame(0x02, vec![0; 700_000]), frame(0x80, vec![0; 700_000])]),
        ),
        (
            "length with its highest bit set",
            Some(1002),
            claim(1 << 63, 0).bytes(),
        ),
        (
            "length of 1 in 16 bits",
            Some(1002),
            Frame {
                length: Length::In16,
                ..frame(0x81, "x")
            }
            .bytes(),
        ),
    ];
    assert_eq!(cases.len(), 36);
    for (name, code, input) in &cases {
        let whole = read(&limits, [&input[..]]);
        assert_eq!(
            whole.verdict.map_err(Violation::close_code),
            code.map_or(Ok(()), Err),
            "{name}"
        );
        assert!(
            code.is_some() || !whole.heard.is_empty(),
            "{name}: nothing heard"
        );
        assert_eq!(
            read(&limits, input.chunks(1)),
            whole,
            "{name}, byte by byte"
        );
    }
}

#[test]
fn bad_input_is_refused_at_its_first_bad_byte() {
    let first_refused =
        |input: &[u8]| (0..=input.len()).find(|&end| read_whole(&input[..end]).verdict.is_err());
    assert_eq!(first_refused(&bytes(0xc1, "x")), Some(1), "reserved bit");
    assert_eq!(first_refused(&[0x81, 1, b'x']), Some(2), "no mask");
    assert_eq!(
        first_refused(
            &Frame {
                length: Length::In16,
                ..frame(0x81, "x")
            }
            .bytes()
        ),
        Some(4),
        "longer form"
    );
    let claim = Frame {
        length: Length::Claimed(80_001),
        ..frame(0x82, "")
    };
    assert_eq!(
        first_refused(&claim.bytes()),
        Some(10),
        "too big, before the key"
    );
    // In the middle of a frame: F4 begins the last characters there are, and 90 would be beyond
    // them.
    assert_eq!(
        first_refused(&bytes(0x81, b"abc\xf4\x90\x80\x80def")),
        Some(6 + 5),
        "bad text"
    );
    assert_eq!(
        first_refused(&bytes(0x81, "abc\u{10ffff}def")),
        None,
        "good text"
    );
}

#[test]
fn only_the_shortest_form_of_a_length_is_accepted() {
    use Length::{In16, In64, Shortest};
    for (payload, longer) in [
        (0, In16),
        (125, In16),
        (125, In64),
        (126, In64),
        (65535, In64),
    ] {
        let frame = |length| {
            Frame {
                length,
                ..frame(FIN | BINARY, vec![1; payload])
            }
            .bytes()
        };
        assert_eq!(
            read_whole(&frame(Shortest)).verdict,
            Ok(()),
            "{payload} bytes"
        );
        let refused = Err(Violation::Protocol("length not in its shortest form"));
        assert_eq!(
            read_whole(&frame(longer)).verdict,
            refused,
            "{payload} bytes {longer:?}"
        );
    }
}

#[test]
fn a_close_code_is_accepted_if_it_may_be_sent() {
    let verdict = |code: u16| read_whole(&bytes(FIN | CLOSE, code.to_be_bytes())).verdict;
    for code in [1000, 1001, 1002, 1003, 1007, 1012, 1013, 1014, 3000, 4999] {
        assert_eq!(verdict(code), Ok(()), "{code}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(
            verdict(code),
            Err(Violation::Protocol("close code that may not be sent")),
            "{code}"
        );
    }
}

#[test]
fn nothing_is_heard_after_a_close_or_a_violation() {
    let close = join(&[
        frame(0x01, "a"),
        frame(0x88, ""),
        frame(0x81, "late"),
        frame(0xff, ""),
    ]);
    assert_eq!(
        read_whole(&close),
        Reading {
            heard: vec![Heard::Close(None)],
            verdict: Ok(()),
            mid_message: false
        }
    );

    let bad = join(&[frame(0x81, "said"), frame(0x8b, ""), frame(0x81, "late")]);
    let reading = read(&LIMITS, [&bad[..], &bytes(0x81, "later")]);
    assert_eq!(
        reading.heard,
        [Heard::Message(Kind::Text, b"said".to_vec())]
    );
    assert_eq!(reading.verdict, Err(Violation::Protocol("reserved opcode")));
}

/// A verdict without the wording: the close code, or 0.
fn code(reading: &Reading) -> u16 {
    reading.verdict.map_or_else(Violation::close_code, |()| 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_said_is_heard(script in vec(say(), 1..8), key: u32) {
        let (frames, heard) = perform(&script, key);
        prop_assert_eq!(read_whole(&join(&frames)), Reading { heard, verdict: Ok(()), mid_message: false });
    }

    #[test]
    fn any_split_of_any_input_is_read_the_same(
        scene in scene(),
        flips in vec((any::<Index>(), any::<u8>()), 0..3),
        end in prop_oneof![Just(None), any::<Index>().prop_map(Some)],
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut input = scene.input();
        prop_assume!(!input.is_empty());
        for (at, flip) in flips {
            let at = at.index(input.len());
            input[at] ^= flip;
        }
        input.truncate(end.map_or(input.len(), |end| end.index(input.len() + 1)));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let whole = read_whole(&input);
        prop_assert_eq!(&read(&LIMITS, cuts.windows(2).map(|cut| &input[cut[0]..cut[1]])), &whole);
        prop_assert_eq!(&read(&LIMITS, input.chunks(1)), &whole);
    }

    #[test]
    fn tungstenite_reads_the_same(scene in scene()) {
        let theirs = tungstenite(&scene.input());
        let ours = read_whole(&scene.input());
        // It reports a close code that may not be sent as a close by 1002, not as an error. To it
        // 1014 is one of them.
        let replaced = Heard::Close(Some((1002, "Protocol violation".to_owned())));
        let expected = |reading: &Reading| {
            let mut heard = reading.heard.clone();
            if let Some(close @ Heard::Close(Some((1014, _)))) = heard.last_mut() {
                *close = replaced.clone();
            }
            (heard, code(reading))
        };
        match scene.defect {
            // It takes lengths that are longer than they have to be.
            Some(Defect::LongerForm) => {
                prop_assert_eq!(&theirs, &expected(&read_whole(&join(&scene.sound))));
                prop_assert!(theirs.0.starts_with(&expected(&ours).0));
            }
            Some(Defect::CloseCode(_)) if code(&ours) == 1002 => {
                prop_assert_eq!(theirs, ([ours.heard, vec![replaced]].concat(), 0));
            }
            // It holds the length against the limit before it looks at the highest bit.
            Some(Defect::HighestBit) if code(&ours) == 1002 => prop_assert_eq!(theirs, (ours.heard, 1009)),
            _ => prop_assert_eq!(theirs, expected(&ours)),
        }
    }

    #[test]
    fn sockudo_reads_the_same(scene in scene(), end in prop_oneof![Just(None), any::<Index>().prop_map(Some)]) {
        let input = scene.input();
        let end = end.map_or(input.len(), |end| end.index(input.len() + 1));
        let ours = read_whole(&input[..end]);
        let mut theirs = sockudo(&input[..end]);
        if ours.verdict.is_err() && code(&ours) != 1007 && theirs.1 == 0 {
            // It judges some of a header only when the frame is there, so it gets the rest of the
            // one that was cut.
            let ends = scene.frames.iter().scan(0, |end, frame| { *end += frame.bytes().len(); Some(*end) });
            let frame_end = ends.into_iter().find(|&frame_end| frame_end >= end);
            theirs = sockudo(&input[..frame_end.unwrap_or(end)]);
        }
        let code = code(&ours);
        prop_assert_eq!(theirs, (ours.heard, code));
    }

    #[test]
    fn a_client_reads_the_controls_we_write((opcode, payload) in control(), code in 3000..=4999_u16, reason in text(200)) {
        let mut wire = Vec::new();
        encode_control(if opcode == PING { ControlFrame::Ping(&payload) } else { ControlFrame::Pong(&payload) }, &mut wire);
        encode_control(ControlFrame::Close(Some((code, &reason))), &mut wire);
        let (mut client, mut stream) = (WebSocketContext::new(Role::Client, None), Received(&wire));
        let control = client.read(&mut stream).expect("a control frame");
        let payload = payload.into();
        prop_assert_eq!(control, if opcode == PING { Message::Ping(payload) } else { Message::Pong(payload) });
        let Message::Close(Some(close)) = client.read(&mut stream).expect("a close") else { panic!("no code") };
        prop_assert_eq!((u16::from(close.code), close.reason.as_str()), (code, truncated(&reason)));
    }
}

#[test]
fn a_client_reads_the_messages_we_write() {
    for (length, header) in [
        (0, 2),
        (1, 2),
        (125, 2),
        (126, 4),
        (65535, 4),
        (65536, MAX_SERVER_HEADER),
    ] {
        let payload = vec![b'a'; length];
        let text = String::from_utf8(payload.clone()).expect("letters");
        for (kind, message) in [
            (Kind::Text, Message::text(text)),
            (Kind::Binary, Message::binary(payload.clone())),
        ] {
            let mut wire = Vec::new();
            encode_header(kind, length, &mut wire);
            assert_eq!(
                (wire.len(), header_len(length)),
                (header, header),
                "{length} bytes"
            );
            wire.extend_from_slice(&payload);
            let read = WebSocketContext::new(Role::Client, None).read(&mut Received(&wire));
            assert_eq!(read.expect("a message"), message);
        }
    }
}

#[test]
fn a_close_may_go_without_a_code() {
    let mut wire = Vec::new();
    encode_control(ControlFrame::Close(None), &mut wire);
    assert_eq!(wire, [0x88, 0]);
}
