//! The order of bytes on a socket, however it takes them.

use std::time::Duration;

use super::*;
use crate::feed::{FeedWriter, Retention, Taken};
use crate::frame::ControlFrame;
use crate::message::{BatchBuilder, Kind, Missed};

const OWN: u32 = 7;
const PING: &[u8] = &[0x89, 3, b'1', b'2', b'3'];

/// Batches and gap marks at random, and a reader before all of them.
fn feed() -> (Vec<Arc<Batch>>, Cursor) {
    let retention = Retention {
        messages: 10_000,
        bytes: 1 << 24,
        history_bytes: usize::MAX,
        ttl: Duration::from_secs(60),
    };
    let (mut writer, feed) = FeedWriter::for_test(retention);
    let (mut all, cursor) = (feed.follow(), feed.follow());
    for _ in 0..rand::random_range(1..100) {
        let mut batch = BatchBuilder::default();
        for _ in 0..rand::random_range(1..6) {
            let sender = if rand::random_bool(0.3) { OWN } else { 0 };
            batch.push(Kind::Text, &vec![b'x'; rand::random_range(0..200)], sender);
        }
        writer.append(batch.build(0), None);
        if rand::random_bool(0.1) {
            writer.mark_gap(Missed::Exactly(3));
        }
    }
    let (mut batches, mut taken) = (Vec::new(), Taken::new());
    while all.take_now(&mut taken) == Ok(true) {
        all.skip(&taken);
        batches.extend(taken.drain(..));
    }
    (batches, cursor)
}

/// The items that a reader gets, and how many of them are messages.
fn wanted(batches: &[Arc<Batch>], Recipient { format, sender }: Recipient) -> (Vec<Vec<u8>>, u64) {
    let (mut items, mut messages) = (Vec::new(), 0);
    for batch in batches {
        for item in 0..batch.items(format) {
            if sender == 0 || !batch.is_from(item, sender) {
                items.push(
                    batch.bytes(format)[batch.end_of(format, item)..batch.end_of(format, item + 1)]
                        .to_vec(),
                );
                messages += u64::from(!batch.is_empty());
            }
        }
    }
    (items, messages)
}

#[test]
fn however_a_socket_takes_them_items_stay_whole_and_control_frames_between_them() {
    for round in 0..600 {
        let format = [Format::RAW, Format::V1, Format::EVENTS][round % 3];
        let recipient = Recipient {
            format,
            sender: if round % 2 == 0 { OWN } else { 0 },
        };
        let (batches, mut cursor) = feed();
        let (mut buffer, mut pings, mut written, mut messages) =
            (WriteBuffer::default(), 0, Vec::new(), 0);
        loop {
            if rand::random_bool(0.3) && pings < 50 {
                buffer.push(ControlFrame::Ping(&PING[2..]));
                pings += 1;
            }
            let mut taken = Taken::new();
            cursor.take_now(&mut taken).expect("nothing is missing");
            let plan = WritePlan::all(&taken, &cursor, &buffer, recipient);
            if plan.is_empty() && taken.is_empty() {
                break;
            }
            let done = if plan.is_empty() {
                plan.written(0)
            } else {
                let bytes: Vec<u8> = plan
                    .slices()
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                let some = rand::random_range(1..=bytes.len());
                written.extend_from_slice(&bytes[..some]);
                plan.written(some)
            };
            messages += done.messages;
            done.apply(&mut cursor, &taken, &mut buffer, recipient);
        }
        let (items, count) = wanted(&batches, recipient);
        let mut rest = &written[..];
        for item in items.iter().map(Vec::as_slice).chain([&[][..]]) {
            while let Some(behind) = rest.strip_prefix(PING) {
                rest = behind;
                pings -= 1;
            }
            rest = rest.strip_prefix(item).expect("the next item, whole");
        }
        assert_eq!(
            (rest.len(), pings, messages),
            (0, 0, count),
            "{recipient:?}"
        );
    }
}
