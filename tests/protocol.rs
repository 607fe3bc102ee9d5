//! The protocol on an open connection: what malformed frames get, and that nobody else pays for
//! them.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{RawClient, TestClient, masked};
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_get_the_code_that_names_them_and_are_counted() {
    let node = TestNode::start(&["--max-message", "1KiB"]).await;
    let mut bystander = TestClient::connect(&node.url("/")).await;
    let unmasked = vec![0x81, 1, b'x'];
    let cases: [(&str, Vec<u8>, u16); 10] = [
        ("unmasked", unmasked, 1002),
        ("a reserved bit", masked(0xa1, b"x"), 1002),
        ("an unknown opcode", masked(0x83, b"x"), 1002),
        ("a continuation of nothing", masked(0x80, b"x"), 1002),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a close of one byte", masked(0x88, b"x"), 1002),
        (
            "a close code nobody may send",
            masked(0x88, &1005u16.to_be_bytes()),
            1002,
        ),
        ("text that is none", masked(0x81, &[0xff]), 1007),
        (
            "a message too long by one byte",
            masked(0x82, &[7; 1025]),
            1009,
        ),
        (
            "fragments too long together",
            [masked(0x02, &[7; 1000]), masked(0x80, &[7; 25])].concat(),
            1009,
        ),
    ];
    for (what, bytes, code) in &cases {
        let mut client = RawClient::websocket(node.address, "/").await;
        client.send(bytes).await;
        assert_eq!(client.close_code().await, *code, "{what}");
        assert!(client.read_to_end().await.is_empty(), "{what}");
    }
    bystander.say("still here").await;
    bystander.expect(["still here"]).await;
    let closed = async |reason: &str| {
        node.metric(&format!(
            "echocast_connections_closed_total{{reason=\"{reason}\",transport=\"websocket\"}}"
        ))
        .await
    };
    until("all are counted", async || {
        (
            closed("protocol").await,
            closed("not_utf8").await,
            closed("too_big").await,
        ) == (7.0, 1.0, 2.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_a_violation_is_heard_by_all() {
    let node = TestNode::start(&[]).await;
    let mut other = TestClient::connect(&node.url("/")).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    client
        .send(
            &[
                masked(0x81, b"fine"),
                masked(0x81, &[0xff]),
                masked(0x81, b"too late"),
            ]
            .concat(),
        )
        .await;
    assert_eq!(client.read_frame().await, (0x81, b"fine".to_vec()));
    assert_eq!(client.close_code().await, 1007);
    other.say("next").await;
    other.expect(["fine", "next"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_are_put_together_and_pings_between_them_answered() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    let frames = [
        masked(0x01, "κό".as_bytes()),
        masked(0x89, b"now"),
        masked(0x00, b""),
        masked(0x80, "σμε".as_bytes()),
    ];
    // One byte at a time: nothing depends on how bytes arrive.
    for byte in frames.concat() {
        client.send(&[byte]).await;
    }
    assert_eq!(client.read_frame().await, (0x8a, b"now".to_vec()));
    assert_eq!(client.read_frame().await, (0x81, "κόσμε".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_too_many_fragments_is_refused() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    client.send(&masked(0x01, b"")).await;
    client.send(&masked(0x00, b"").repeat(65_537)).await;
    assert_eq!(client.close_code().await, 1009);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_codes_are_echoed() {
    let node = TestNode::start(&[]).await;
    for (code, reason) in [(1000, ""), (1001, "leaving"), (3000, "x"), (4999, "κόσμε")] {
        let mut client = TestClient::connect(&node.url("/")).await;
        assert_eq!(
            client.close(code, reason).await,
            Some((code, reason.into()))
        );
    }
    let mut silent = RawClient::websocket(node.address, "/").await;
    silent.send(&masked(0x88, b"")).await;
    assert_eq!(silent.close_code().await, 1000);
    assert!(silent.read_to_end().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_in_order_even_while_messages_pour_in() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    let mut bytes = Vec::new();
    for number in 0..200u32 {
        bytes.extend(masked(0x82, &[7; 1000]));
        bytes.extend(masked(0x89, &number.to_be_bytes()));
    }
    client.send(&bytes).await;
    let (mut pongs, mut messages) = (0u32, 0);
    while pongs < 200 || messages < 200 {
        match client.read_frame().await {
            (0x8a, payload) => {
                assert_eq!(payload, pongs.to_be_bytes());
                pongs += 1;
            }
            (0x82, _) => messages += 1,
            (first, _) => panic!("frame {first:#x}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_pinged_and_those_who_do_not_answer_are_closed() {
    let node = TestNode::start(&["--ping-interval", "200ms", "--ping-timeout", "1s"]).await;
    let mut dead = RawClient::websocket(node.address, "/").await;
    assert_eq!(dead.read_frame().await, (0x89, Vec::new()));
    let pinged = Instant::now();
    let code = loop {
        match dead.read_frame().await {
            (0x89, _) => {}
            (0x88, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            (first, _) => panic!("frame {first:#x}"),
        }
    };
    assert_eq!(code, 1002);
    assert!(
        pinged.elapsed() >= Duration::from_millis(700),
        "closed after {:?}",
        pinged.elapsed()
    );
    let closed =
        "echocast_connections_closed_total{reason=\"ping_timeout\",transport=\"websocket\"}";
    drop(dead);
    until("it is counted", async || node.metric(closed).await == 1.0).await;
    // One that reads answers.
    let mut alive = TestClient::connect(&node.url("/")).await;
    assert!(alive.hears_nothing_for(Duration::from_secs(2)).await);
    alive.say("alive").await;
    alive.expect(["alive"]).await;
    assert_eq!(node.metric(closed).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_publishes_lives_as_long_as_it_publishes_without_redis() {
    a_client_that_only_publishes_lives(Cluster::embedded(&FREQUENT_PINGS).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_publishes_lives_as_long_as_it_publishes_over_redis() {
    a_client_that_only_publishes_lives(Cluster::redis(2, &FREQUENT_PINGS).await).await;
}

const FREQUENT_PINGS: [&str; 4] = ["--ping-interval", "1s", "--ping-timeout", "1s"];

async fn a_client_that_only_publishes_lives(cluster: Cluster) {
    let node = cluster.node(0);
    let closed =
        "echocast_connections_closed_total{reason=\"ping_timeout\",transport=\"websocket\"}";
    let mut reader = cluster.client(1, "/a").await;
    // It reads nothing, so it answers none of its pings.
    let mut client = RawClient::websocket(node.address, "/a?echo=false").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        client.send(&masked(0x81, b"still here")).await;
        reader.expect(["still here"]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(node.metric(closed).await, 0.0);
    drop(reader);
    let silent = Instant::now();
    until("it is closed once it publishes no more", async || {
        node.metric(closed).await == 1.0
    })
    .await;
    assert!(silent.elapsed() > Duration::from_millis(400), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_talks_faster_than_it_may_is_closed_with_1008() {
    let node = TestNode::start(&["--message-rate", "5"]).await;
    let mut client = RawClient::websocket(node.address, "/").await;
    client.send(&masked(0x81, b"x").repeat(50)).await;
    for _ in 0..5 {
        assert_eq!(client.read_frame().await, (0x81, b"x".to_vec()));
    }
    assert_eq!(client.close_code().await, 1008);
    let mut slow = TestClient::connect(&node.url("/")).await;
    for _ in 0..3 {
        slow.send(Message::text("fine")).await;
        slow.expect(["fine"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_pongs_is_no_longer_read_and_costs_the_others_nothing() {
    let node = TestNode::start(&[]).await;
    let mut greedy = RawClient::websocket(node.address, "/").await;
    let flood = masked(0x89, &[7; 125]).repeat(1000);
    let flooding = tokio::spawn(async move {
        for _ in 0..200 {
            tokio::io::AsyncWriteExt::write_all(&mut greedy.stream, &flood)
                .await
                .unwrap();
        }
    });
    let mut other = TestClient::connect(&node.url("/")).await;
    for _ in 0..100 {
        other.say("fine").await;
        other.expect(["fine"]).await;
    }
    // 26 MB of pings: had they all been taken, as many bytes of pongs would be held now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!flooding.is_finished(), "TCP slows it");
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_missed_at_once_however_it_leaves() {
    // No ping notices it.
    let node = TestNode::start(&["--ping-interval", "24h", "--ping-timeout", "24h"]).await;
    let mut listener = TestClient::connect(&node.url("/")).await;
    let pings = masked(0x89, &[7; 125]).repeat(1000);
    for round in 0..12 {
        let mut client = RawClient::websocket(node.address, "/").await;
        client.send(&masked(0x81, b"last words")).await;
        match round % 4 {
            // An end right behind what it said.
            0 => client.stream.shutdown().await.unwrap(),
            1 => drop(client),
            // What it has not read makes it a reset, here while it is not read from.
            2 => {
                let stopped = Duration::from_millis(100);
                while let Ok(written) =
                    tokio::time::timeout(stopped, client.stream.write_all(&pings)).await
                {
                    written.unwrap();
                }
                drop(client);
            }
            _ => client.send(&[0x81]).await,
        }
        listener.expect(["last words"]).await;
    }
    until("only the listener is here", async || {
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 1.0
    })
    .await;
}
