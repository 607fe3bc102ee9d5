//! Slow readers and fast writers: each pays for itself, and memory has a bound.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{RawClient, TestClient, masked};
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
        node.metric(&format!("{SLOW}{{policy=\"disconnect\"}}"))
            .await
            == 1.0
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
    assert!(
        feed_bytes <= 256.0 * 1024.0,
        "{feed_bytes} bytes in the feed"
    );
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
                assert!(
                    last.is_none_or(|last| number > last),
                    "{number} after {last:?}"
                );
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
    let lost = node
        .metric("echocast_messages_lost_total{cause=\"slow_client\"}")
        .await;
    assert_eq!(
        lost + heard as f64,
        1000.0,
        "every message was heard or counted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_writers_are_slowed_and_nothing_accepted_is_lost() {
    let cluster = Cluster::redis(2, &["--max-message", "1MiB"]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut listener = cluster.client(1, "/").await;
    let speaker = cluster.client(0, "/").await;
    redis.pause().await;
    let (mut say, mut hear) = speaker.into_inner().split();
    let speaking = tokio::spawn(async move {
        for number in 0..200u64 {
            let mut message = vec![7u8; 512 * 1024];
            message[..8].copy_from_slice(&number.to_be_bytes());
            say.send(Message::binary(message)).await.unwrap();
        }
    });
    let own = tokio::spawn(async move {
        let mut heard = 0;
        while heard < 200 {
            let message = hear.next().await.unwrap().unwrap();
            heard += u32::from(message.is_binary());
        }
    });
    until("the inbox is full", async || {
        cluster.node(0).metric("echocast_inbox_depth").await >= 32.0
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_who_ask_for_all_that_is_kept_are_not_slow_on_a_busy_channel() {
    let node = TestNode::start(&["--history", "20"]).await;
    let mut speaker = TestClient::connect(&node.url("/")).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let speaking = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            speaker.say("tick").await;
            speaker.next().await;
        }
    });
    for _ in 0..50 {
        let mut newcomer = TestClient::connect(&node.url("/?last=20")).await;
        for _ in 0..30 {
            newcomer.expect(["tick"]).await;
        }
    }
    stop.cancel();
    soon("the speaker ends", speaking).await.unwrap();
    assert_eq!(
        node.metric(&format!("{SLOW}{{policy=\"disconnect\"}}"))
            .await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_everybody_reaches_everybody_who_reads() {
    // The burst is 600 KiB, and the feed holds it in two encodings: on a busy machine a client may
    // come late, and of a socket's buffers 32 KiB are all that is left to it.
    let node = TestNode::start(&["--feed-bytes", "1280KiB"]).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(TestClient::connect(&node.url("/")).await.into_inner());
    }
    let mut clients = tokio::task::JoinSet::new();
    for socket in sockets {
        let (mut say, mut hear) = socket.split();
        let saying = tokio::spawn(async move {
            for _ in 0..10 {
                say.feed(Message::binary(vec![7; 3 * 1024])).await.unwrap();
            }
            say.flush().await.unwrap();
            say
        });
        clients.spawn(async move {
            let mut heard = 0;
            while heard < 200 {
                match hear.next().await.unwrap().unwrap() {
                    Message::Binary(_) => heard += 1,
                    Message::Ping(_) => {}
                    other => panic!("{other:?} after {heard} messages"),
                }
            }
            drop(saying.await.unwrap());
        });
    }
    soon("everybody heard everything", clients.join_all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_lags_in_the_middle_of_a_batch_is_closed_with_1013_between_two_frames() {
    let node = TestNode::start(&["--feed-bytes", "256KiB"]).await;
    let mut silent = RawClient::websocket(node.address, "/").await;
    let mut speaker = RawClient::websocket(node.address, "/").await;
    let many = masked(0x82, &[7; 1000]).repeat(60);
    for _ in 0..300 {
        speaker.send(&many).await;
        for _ in 0..60 {
            while speaker.read_frame().await.0 != 0x82 {}
        }
    }
    until("it counts as slow", async || {
        node.metric(&format!("{SLOW}{{policy=\"disconnect\"}}"))
            .await
            == 1.0
    })
    .await;
    loop {
        match silent.read_frame().await {
            (0x82, payload) => assert_eq!(payload, [7; 1000]),
            (0x89, _) => {}
            (first, payload) => {
                assert_eq!((first, &payload[..2]), (0x88, &1013u16.to_be_bytes()[..]));
                break;
            }
        }
    }
    let closed = "echocast_connections_closed_total{reason=\"slow\",transport=\"websocket\"}";
    drop(silent);
    until("and is counted as that", async || {
        node.metric(closed).await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_skip_a_reader_that_lags_while_it_closes_gets_the_newest_and_its_answer() {
    let node = TestNode::start(&["--feed-bytes", "256KiB", "--slow-client", "skip"]).await;
    let mut slow = RawClient::websocket(node.address, "/").await;
    let mut speaker = TestClient::connect(&node.url("/")).await;
    pour(&mut speaker, 1000).await;
    slow.send(&masked(0x88, &4000u16.to_be_bytes())).await;
    let begun = Instant::now();
    let mut newest = 0;
    let code = loop {
        match slow.read_frame().await {
            (0x82, payload) => newest = u64::from_be_bytes(payload[..8].try_into().unwrap()),
            (0x88, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            (_, _) => {}
        }
    };
    assert_eq!((code, newest), (4000, 999));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "not only when patience ended: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_inbox_makes_nobody_look_dead() {
    let cluster = Cluster::redis(
        1,
        &[
            "--max-message",
            "1MiB",
            "--ping-interval",
            "500ms",
            "--ping-timeout",
            "500ms",
        ],
    )
    .await;
    let node = cluster.node(0);
    let mut alive = cluster.client(0, "/quiet").await;
    let (mut say, mut hear) = cluster.client(0, "/loud").await.into_inner().split();
    let redis = cluster.redis.as_ref().unwrap();
    redis.pause().await;
    tokio::spawn(async move { while let Some(Ok(_)) = hear.next().await {} });
    let loud = tokio::spawn(async move {
        while say.send(Message::binary(vec![7; 512 * 1024])).await.is_ok() {}
    });
    until("the inbox is full", async || {
        node.metric("echocast_inbox_depth").await >= 32.0
    })
    .await;
    assert!(
        alive.hears_nothing_for(Duration::from_secs(3)).await,
        "it answers every ping and stays"
    );
    assert_eq!(
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await,
        2.0
    );
    loud.abort();
    redis.unpause().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_again_is_heard_again() {
    const PINGS: usize = 200_000;
    let node = TestNode::start(&["--ping-interval", "24h", "--ping-timeout", "24h"]).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    let (mut hear, mut say) = client.stream.split();
    let pings = masked(0x89, &[7; 125]).repeat(PINGS);
    let received = "echocast_received_bytes_total{transport=\"websocket\"}";
    let reading = async {
        until("it is read from", async || {
            node.metric(received).await > 0.0
        })
        .await;
        let (mut before, mut now) = (-1.0, 0.0);
        while now > before {
            tokio::time::sleep(Duration::from_millis(200)).await;
            (before, now) = (now, node.metric(received).await);
        }
        assert!(now < pings.len() as f64, "it is not read from any more");
        // A message that comes together with the last of its pongs.
        let mut speaker = TestClient::connect(&node.url("/")).await;
        speaker.say("x").await;
        speaker.expect(["x"]).await;
        let mut rest = vec![0; PINGS * 127 + 3];
        soon("all pongs and the message", hear.read_exact(&mut rest))
            .await
            .unwrap();
    };
    tokio::join!(async { say.write_all(&pings).await.unwrap() }, reading);
}
