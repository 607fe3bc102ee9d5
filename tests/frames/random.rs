//! Random scripts: what a client might say, as the frames that say it, perhaps with one thing
//! wrong.

use echocast::frame::MAX_CONTROL;
use echocast::message::Kind;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::wire::{BINARY, CLOSE, FIN, Frame, Length, PING, PONG, TEXT, frame, join};
use super::{Heard, LIMITS};

/// One thing said: any message, with places to cut it and what to say at the cuts.
#[derive(Clone, Debug)]
pub(super) enum Say {
    Message {
        kind: Kind,
        payload: Vec<u8>,
        cuts: Vec<Index>,
        between: Vec<(u8, Vec<u8>)>,
    },
    Control(u8, Vec<u8>),
    Close(Option<(u16, String)>),
}

pub(super) fn text(most: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..most).prop_map(String::from_iter)
}

pub(super) fn control() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (
        prop_oneof![Just(PING), Just(PONG)],
        vec(any::<u8>(), 0..=MAX_CONTROL),
    )
}

pub(super) fn say() -> impl Strategy<Value = Say> {
    let payload = prop_oneof![
        4 => text(30).prop_map(|text| (Kind::Text, text.into_bytes())),
        2 => (text(9), 0..400_usize).prop_map(|(text, times)| (Kind::Text, text.repeat(times).into_bytes())),
        2 => vec(any::<u8>(), 0..300).prop_map(|bytes| (Kind::Binary, bytes)),
        1 => (65_500..65_600_usize, any::<u8>()).prop_map(|(length, byte)| (Kind::Binary, vec![byte; length])),
    ];
    let code = prop_oneof![1000..=1003_u16, 1007..=1014_u16, 3000..=4999_u16];
    let cuts = prop_oneof![2 => Just(vec![]), 3 => vec(any::<Index>(), 1..6)];
    prop_oneof![
        8 => (payload, cuts, vec(control(), 0..4))
            .prop_map(|((kind, payload), cuts, between)| Say::Message { kind, payload, cuts, between }),
        3 => control().prop_map(|(opcode, payload)| Say::Control(opcode, payload)),
        1 => proptest::option::of((code, text(30))).prop_map(Say::Close),
    ]
}

/// The frames of a script and what should be heard of it, worked out without a decoder.
pub(super) fn perform(script: &[Say], key: u32) -> (Vec<Frame>, Vec<Heard>) {
    let (mut frames, mut heard, mut closed) = (Vec::new(), Vec::new(), false);
    for say in script {
        let mut events = Vec::new();
        match say {
            Say::Message {
                kind,
                payload,
                cuts,
                between,
            } => {
                let mut cuts: Vec<usize> = cuts
                    .iter()
                    .map(|cut| cut.index(payload.len() + 1))
                    .collect();
                cuts.sort_unstable();
                let (mut start, mut opcode) = (0, if *kind == Kind::Text { TEXT } else { BINARY });
                let mut between = between.iter();
                for cut in cuts {
                    frames.push(frame(opcode, &payload[start..cut]));
                    if let Some((opcode, payload)) = between.next() {
                        frames.push(frame(FIN | opcode, payload));
                        events.push(hear_control(*opcode, payload));
                    }
                    (start, opcode) = (cut, 0);
                }
                frames.push(frame(FIN | opcode, &payload[start..]));
                events.push(Heard::Message(*kind, payload.clone()));
            }
            Say::Control(opcode, payload) => {
                frames.push(frame(FIN | opcode, payload));
                events.push(hear_control(*opcode, payload));
            }
            Say::Close(close) => {
                let close = close
                    .as_ref()
                    .map(|(code, reason)| (*code, truncated(reason)));
                let payload = close.map_or(vec![], |(code, text)| {
                    [&code.to_be_bytes()[..], text.as_bytes()].concat()
                });
                frames.push(frame(FIN | CLOSE, payload));
                events.push(Heard::Close(
                    close.map(|(code, reason)| (code, reason.to_owned())),
                ));
            }
        }
        if !closed {
            heard.extend(events);
        }
        closed |= matches!(say, Say::Close(_));
    }
    for (frame, number) in frames.iter_mut().zip(1..) {
        frame.key = key.wrapping_mul(number).to_ne_bytes();
    }
    (frames, heard)
}

fn hear_control(opcode: u8, payload: &[u8]) -> Heard {
    if opcode == PING {
        Heard::Ping(payload.to_vec())
    } else {
        Heard::Pong(payload.to_vec())
    }
}

/// As much of a reason as fits into a close.
pub(super) fn truncated(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)]
}

/// One thing wrong with a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Defect {
    Reserved,
    Opcode,
    Fin,
    Unmasked,
    LongerForm,
    HighestBit,
    TooBig,
    ControlTooLong,
    BadText,
    CloseCode(u16),
    HalfCode,
    Dropped,
}

fn defect() -> impl Strategy<Value = Defect> {
    let bad_codes = prop_oneof![
        0..1000_u16,
        1004..=1006_u16,
        1015..3000_u16,
        5000..=u16::MAX
    ];
    prop_oneof![
        Just(Defect::Reserved),
        Just(Defect::Opcode),
        Just(Defect::Fin),
        Just(Defect::Unmasked),
        Just(Defect::LongerForm),
        Just(Defect::HighestBit),
        Just(Defect::TooBig),
        Just(Defect::ControlTooLong),
        Just(Defect::BadText),
        bad_codes.prop_map(Defect::CloseCode),
        Just(Defect::HalfCode),
        Just(Defect::Dropped),
    ]
}

impl Defect {
    /// Puts it on the first frame at or after `at` that can have it; `false` if there is none.
    fn apply(self, frames: &mut Vec<Frame>, at: Index, luck: u8) -> bool {
        let can_have = |frame: &Frame| {
            let is_control = frame.first & CLOSE != 0;
            match self {
                Self::LongerForm => frame.payload.len() < 0x1_0000 && !is_control,
                Self::TooBig | Self::HighestBit => !is_control,
                Self::ControlTooLong => is_control,
                Self::BadText => !frame.payload.is_empty() && !is_control,
                Self::CloseCode(_) | Self::HalfCode => frame.first & 0x0f == CLOSE,
                Self::Reserved | Self::Opcode | Self::Fin | Self::Unmasked | Self::Dropped => true,
            }
        };
        let from = at.index(frames.len());
        let Some(at) = (from..frames.len()).find(|&at| can_have(&frames[at])) else {
            return false;
        };
        let frame = &mut frames[at];
        let length = frame.payload.len();
        match self {
            Self::Reserved => frame.first |= [0x10, 0x20, 0x40, 0x70][usize::from(luck) % 4],
            Self::Opcode => {
                frame.first = frame.first & 0xf0 | [0, 1, 2, 3, 7, 11, 15][usize::from(luck) % 7]
            }
            Self::Fin => frame.first ^= FIN,
            Self::Unmasked => frame.masked = false,
            Self::LongerForm => {
                frame.length = if length < 126 && luck < 128 {
                    Length::In16
                } else {
                    Length::In64
                }
            }
            Self::HighestBit => frame.length = Length::Claimed(1 << 63 | length as u64),
            Self::TooBig => {
                frame.length = Length::Claimed(LIMITS.max_message as u64 + 1 + u64::from(luck))
            }
            Self::ControlTooLong => frame.payload = vec![luck; 126 + usize::from(luck)],
            Self::BadText => frame.payload[usize::from(luck) % length] = 0xff,
            Self::CloseCode(code) => frame.payload = code.to_be_bytes().to_vec(),
            Self::HalfCode => frame.payload = vec![luck],
            Self::Dropped => drop(frames.remove(at)),
        }
        true
    }
}

/// A script as frames, with at most one defect, and the same frames without it.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) frames: Vec<Frame>,
    pub(super) defect: Option<Defect>,
    pub(super) sound: Vec<Frame>,
}

impl Scene {
    pub(super) fn input(&self) -> Vec<u8> {
        join(&self.frames)
    }
}

pub(super) fn scene() -> impl Strategy<Value = Scene> {
    let defect =
        prop_oneof![1 => Just(None), 4 => (defect(), any::<Index>(), any::<u8>()).prop_map(Some)];
    (vec(say(), 1..8), any::<u32>(), defect).prop_map(|(script, key, defect)| {
        let (sound, _) = perform(&script, key);
        let mut frames = sound.clone();
        let applied = defect.filter(|&(defect, at, luck)| defect.apply(&mut frames, at, luck));
        Scene {
            frames,
            defect: applied.map(|(defect, ..)| defect),
            sound,
        }
    })
}
