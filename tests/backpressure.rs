//! Slow readers and fast writers: each pays for itself, and memory has a bound.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{RawClient, TestClient};
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::{soon, until};

const SLOW: &str = "echocast_slow_clients_total";

/// Says `count` messages of 16 KiB, hearing each before the next, so that only others can lag.
async fn pour(speaker: &mut TestClient, count: usize) {
    for number in 0..count {
        let mut message = vec![7u8; 16 * 1024];
        message[..8].copy_from_slice(&(number as u64).to_be_bytes());
        speaker.send(Message::binary(message)).await;
        speaker.next().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_closed_with_1013_and_the_others_hear_everything() {
    let node = TestNode::start(&["--feed-bytes", "256KiB"]).await;
    let mut silent = RawClient::websocket(node.address, "/").await;
    let mut speaker = TestClient::connect(&node.url("/")).await;
    // More than socket buffers hold.
    pour(&mut speaker, 1000).await;
    until("the silent one counts as slow", async || {
        node.metric(&format!("{SLOW}{{policy=\"disconnect\"}}")).await == 1.0
    })
    .await;
    // What it got is whole: messages without a gap up to the close, which comes between two frames.
    let mut next = 0u64;
    let code = loop {
        match silent.read_frame().await {
            (0x82, payload) => {
                assert_eq!(payload[..8], next.to_be_bytes());
                next += 1;
            }
            (0x88, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            (first, _) => panic!("frame {first:#x}"),
        }
    };
    assert_eq!(code, 1013);
    assert!(next > 0 && next < 1000, "{next} messages");
    let feed_bytes = node.metric("echocast_feed_bytes").await;
    assert!(feed_bytes <= 256.0 * 1024.0, "{feed_bytes} bytes in the feed");
    speaker.say("goes on").await;
    speaker.expect(["goes on"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_skip_a_slow_reader_loses_its_place_and_every_lost_message_is_counted() {
    let node = TestNode::start(&["--feed-bytes", "256KiB", "--slow-client", "skip"]).await;
    let mut slow = RawClient::websocket(node.address, "/").await;
    let mut speaker = TestClient::connect(&node.url("/")).await;
    pour(&mut speaker, 1000).await;
    // It begins to read now, and reads to the end.
    speaker.say("the end").await;
    let (mut heard, mut last) = (0u64, None);
    loop {
        match slow.read_frame().await {
            (0x82, payload) => {
                let number = u64::from_be_bytes(payload[..8].try_into().unwrap());
                assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                (heard, last) = (heard + 1, Some(number));
            }
            (0x81, payload) => {
                assert_eq!(payload, b"the end");
                break;
            }
            (0x89, _) => {}
            (first, _) => panic!("frame {first:#x}"),
        }
    }
    assert!(heard < 1000, "it lagged");
    assert!(node.metric(&format!("{SLOW}{{policy=\"skip\"}}")).await >= 1.0);
    let lost = node.metric("echocast_messages_lost_total{cause=\"slow_client\"}").await;
    assert_eq!(lost + heard as f64, 1000.0, "every message was heard or counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_writers_are_slowed_and_nothing_accepted_is_lost() {
    let cluster = Cluster::redis(2, &["--max-message", "1MiB"]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut listener = cluster.client(1, "/").await;
    let speaker = cluster.client(0, "/").await;
    redis.pause().await;
    let (mut say, mut hear) = futures_util::StreamExt::split(speaker.into_inner());
    let speaking = tokio::spawn(async move {
        for number in 0..200u64 {
            let mut message = vec![7u8; 512 * 1024];
            message[..8].copy_from_slice(&number.to_be_bytes());
            futures_util::SinkExt::send(&mut say, Message::binary(message)).await.unwrap();
        }
    });
    let own = tokio::spawn(async move {
        let mut heard = 0;
        while heard < 200 {
            let message = futures_util::StreamExt::next(&mut hear).await.unwrap().unwrap();
            heard += u32::from(message.is_binary());
        }
    });
    until("the inbox is full", async || cluster.node(0).metric("echocast_inbox_depth").await >= 32.0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let depth = cluster.node(0).metric("echocast_inbox_depth").await;
    assert!(depth <= 40.0, "16 MiB are 32 messages; {depth} were taken");
    assert!(!speaking.is_finished(), "TCP slows the speaker");
    redis.unpause().await;
    for number in 0..200u64 {
        match listener.next().await {
            Message::Binary(payload) => assert_eq!(payload[..8], number.to_be_bytes()),
            other => panic!("{other:?}"),
        }
    }
    soon("the speaker is done", speaking).await.unwrap();
    soon("it heard itself", own).await.unwrap();
}
