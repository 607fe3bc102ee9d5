//! Strangers make nobody else wait. Each test keeps one channel or client busy, or stuck, and
//! asserts that others go on; how late they are, `tests/bench/hostile` measures.

use crate::support::client::{RawClient, TestClient, deflated, handshake, masked};
use crate::support::cluster::Cluster;
use crate::support::events::EventStream;
use crate::support::node::TestNode;
use crate::support::{on_both_brokers, soon, until};

on_both_brokers!(
    an_event_stream_that_is_not_read_is_closed_as_slow_and_delays_nobody,
    a_slow_reader_is_skipped_ahead_and_told_in_every_format_that_can_tell,
);

const SLOW: &str = "echocast_slow_clients_total{policy=\"disconnect\"}";
const RELAYED: &str = "echocast_messages_relayed_total";
const STREAMS: &str = "echocast_connections{transport=\"sse\"}";

/// A frame that inflates to 64 KiB.
fn large() -> Vec<u8> {
    masked(0xc1, &deflated(&[b'a'; 65_000]))
}

/// Sends 40 large messages and waits until the node has them.
async fn flood(node: &TestNode, stranger: &mut RawClient, message: &[u8]) {
    let before = node.metric(RELAYED).await;
    stranger.send(&message.repeat(40)).await;
    until("the node has them", async || {
        node.metric(RELAYED).await >= before + 40.0
    })
    .await;
}

async fn unread_stream(node: &TestNode, path: &str) -> RawClient {
    let mut client = RawClient::connect(node.address).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    client.send(request.as_bytes()).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 200 "));
    client
}

async fn an_event_stream_that_is_not_read_is_closed_as_slow_and_delays_nobody(cluster: Cluster) {
    let node = cluster.node(0);
    let _deaf = unread_stream(node, "/evil").await;
    let mut reading = EventStream::open(node.address, "/honest", None).await;
    assert_eq!(
        reading.next().await.unwrap().data,
        "",
        "where it would go on"
    );
    let mut honest = cluster.client(1, "/honest").await;
    let mut stranger = RawClient::deflating(node.address, "/evil", "").await;
    let message = large();
    let slow = async || cluster.node(0).metric(SLOW).await >= 1.0;
    // In the end far more than its socket and the feed hold.
    for round in 0.. {
        flood(node, &mut stranger, &message).await;
        let text = format!("round {round}");
        honest.say(&text).await;
        honest.expect([text.as_str()]).await;
        reading.expect([text.as_str()]).await;
        if slow().await {
            break;
        }
        assert!(round < 200, "it is closed as slow");
    }
    until("only the stream that reads is left", async || {
        node.metric(STREAMS).await == 1.0
    })
    .await;
}

async fn a_slow_reader_is_skipped_ahead_and_told_in_every_format_that_can_tell(cluster: Cluster) {
    let redis = cluster.redis.as_ref().map(|redis| redis.url());
    let mut flags = vec!["--slow-client", "skip", "--feed-bytes", "1MiB"];
    flags.extend(redis.iter().flat_map(|url| ["--redis-url", url.as_str()]));
    let node = TestNode::start(&flags).await;
    let mut stream = unread_stream(&node, "/a").await;
    let mut v1 = RawClient::connect(node.address).await;
    v1.send(
        handshake(
            node.address,
            "/a",
            "Sec-WebSocket-Protocol: echocast.v1\r\n",
        )
        .as_bytes(),
    )
    .await;
    let mut stranger = RawClient::deflating(node.address, "/a", "").await;
    let message = large();
    // 50 MiB: far more than its socket and the feed hold.
    for _ in 0..20 {
        flood(&node, &mut stranger, &message).await;
    }
    let mut honest = TestClient::connect(&node.url("/a")).await;
    honest.say("the last").await;
    let heard = heard_up_to(&mut stream, "data: the last\n\n").await;
    assert!(
        heard.contains("\n\nevent: gap\ndata: {\"missed\":"),
        "it is told how much it has missed"
    );
    let heard = heard_up_to(&mut v1, "\"data\":\"the last\"}").await;
    assert!(
        heard.contains("{\"event\":\"gap\",\"missed\":"),
        "it is told how much it has missed"
    );
    // Perhaps once more while they read on, on a busy machine.
    assert!(
        node.metric("echocast_slow_clients_total{policy=\"skip\"}")
            .await
            >= 2.0
    );
}

/// Everything that comes up to this text.
async fn heard_up_to(client: &mut RawClient, end: &str) -> String {
    let mut heard = Vec::new();
    soon(end, async {
        while !heard.ends_with(end.as_bytes()) {
            tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut heard)
                .await
                .unwrap();
        }
    })
    .await;
    String::from_utf8_lossy(&heard).into_owned()
}
