//! Memory of a node under attack: never more than `--memory`, whatever strangers send and however
//! they read it.

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use crate::support::client::{RawClient, TestClient, deflated, handshake, http, masked};
use crate::support::cluster::Cluster;
use crate::support::events::{post, publish};
use crate::support::node::TestNode;
use crate::support::v1::V1Client;
use crate::support::{on_both_brokers, soon, until};

on_both_brokers!(a_message_beyond_the_rate_is_not_inflated);

const MIB: f64 = 1024.0 * 1024.0;

/// The largest message by default, in bytes.
const LARGE: usize = 64 * 1024;

/// A text frame of a hundred bytes or so that inflates to the largest message.
fn large(byte: u8) -> Vec<u8> {
    masked(0xc1, &deflated(&vec![byte; LARGE]))
}

/// Bytes that messages take in a node, all parts together.
async fn memory(node: &TestNode) -> f64 {
    let text = node.get_ops("/metrics").await.1;
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("echocast_memory_bytes{"));
    lines
        .map(|line| line.split_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

async fn shed(node: &TestNode, what: &str) -> f64 {
    node.metric(&format!(
        "echocast_memory_shed_bytes_total{{what=\"{what}\"}}"
    ))
    .await
}

/// Fills a channel with so many large messages; returns when the node has taken them.
async fn fill(node: &TestNode, path: &str, messages: usize, byte: u8) -> RawClient {
    let relayed = "echocast_messages_relayed_total";
    let before = node.metric(relayed).await;
    let mut client = RawClient::deflating(node.address, path, "").await;
    client.send(&large(byte).repeat(messages)).await;
    until("the node has all messages", async || {
        node.metric(relayed).await >= before + messages as f64
    })
    .await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_full_of_deflated_messages_share_the_budget() {
    let node = TestNode::start(&["--memory", "32MiB"]).await;
    assert_eq!(node.metric("echocast_memory_limit").await, 32.0 * MIB);
    let mut clients = Vec::new();
    for channel in 0..12 {
        // 6 MiB each, 72 MiB in all.
        clients.push(fill(&node, &format!("/c{channel}"), 96, b'a').await);
        let held = memory(&node).await;
        assert!(held <= 32.0 * MIB, "{channel}: {held}");
    }
    assert_eq!(shed(&node, "idle").await, 0.0, "every channel has a client");
    assert!(shed(&node, "feeds").await >= 36.0 * MIB);
    // The newest of each channel is still there.
    let (status, body) = read(&node, "/c0?last=1").await;
    assert_eq!(
        (status, body["messages"].as_array().unwrap().len()),
        (200, 1)
    );
}

async fn read(node: &TestNode, path: &str) -> (u16, Value) {
    let (status, _, body) =
        http(node.address, "GET", path, &[("Accept", "application/json")]).await;
    (status, serde_json::from_str(&body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_of_channels_without_clients_go_first_and_what_is_gone_is_told_exactly() {
    let node = TestNode::start(&["--memory", "32MiB"]).await;
    let first = publish(node.address, "/idle", "first").await;
    for text in ["second", "third"] {
        publish(node.address, "/idle", text).await;
    }
    publish(node.address, "/kept", "kept").await;
    let _listener = TestClient::connect(&node.url("/kept")).await;
    let mut clients = Vec::new();
    for channel in 0..6 {
        clients.push(fill(&node, &format!("/c{channel}"), 96, b'a').await);
    }
    assert!(shed(&node, "idle").await > 0.0);
    let (_, body) = read(&node, &format!("/idle?since={first}")).await;
    assert_eq!(
        (&body["missed"], &body["recovered"]),
        (&2.into(), &false.into()),
        "{body}"
    );
    let (_, body) = read(&node, "/kept?last=5").await;
    assert_eq!(
        body["messages"][0]["data"], "kept",
        "a small feed is no shorter"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_read_in_every_format_holds_all_of_them_in_its_bound() {
    let node = TestNode::start(&["--feed-bytes", "2MiB"]).await;
    let first = publish(node.address, "/a", "first").await;
    // Each newline is a line of an event, and an escape in JSON.
    let _filling = fill(&node, "/a", 64, b'\n').await;
    let before = missed(&node, "/a", &first).await;
    let deflate = "Sec-WebSocket-Extensions: permessage-deflate";
    let protocol = "Sec-WebSocket-Protocol: echocast.v1\r\n";
    let formats = [
        format!("{deflate}\r\n"),
        format!("{deflate}; server_max_window_bits=9\r\n"),
        protocol.to_owned(),
        format!("{deflate}\r\n{protocol}"),
        format!("{deflate}; server_max_window_bits=9\r\n{protocol}"),
    ];
    for extra in formats {
        let mut client = RawClient::connect(node.address).await;
        client
            .send(handshake(node.address, "/a?last=1000", &extra).as_bytes())
            .await;
        read_some(&mut client, &node).await;
    }
    let after = missed(&node, "/a", &first).await;
    assert!(
        after > before,
        "JSON of a newline is twice as long, so fewer messages fit: {after} are gone, {before} were"
    );
    let mut client = RawClient::connect(node.address).await;
    client
        .send(b"GET /a?last=1000 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        .await;
    read_some(&mut client, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pages_of_a_replay_are_encoded_into_counts_until_it_is_written() {
    let cluster = Cluster::redis(1, &["--feed-bytes", "256KiB"]).await;
    let node = cluster.node(0);
    // More than the feed can hold, in batches of one message. The first page has four of them, and
    // in JSON each newline is two bytes.
    for _ in 0..16 {
        publish(node.address, "/a", &"\n".repeat(60_000)).await;
    }
    let pages = async || node.metric("echocast_memory_bytes{part=\"pages\"}").await;
    let raw = reader_that_stands_still(node, "").await;
    let mut plain = 0.0;
    soon("the kernel takes nothing more", async {
        loop {
            let now = pages().await;
            if now > 0.0 && now == plain {
                break;
            }
            plain = now;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    drop(raw);
    until("it is dropped with its reader", async || {
        pages().await == 0.0
    })
    .await;

    let protocol = "Sec-WebSocket-Protocol: echocast.v1\r\n";
    let json = reader_that_stands_still(node, protocol).await;
    until("what was encoded counts", async || {
        pages().await >= plain + 128.0 * 1024.0
    })
    .await;
    drop(json);
    until("it is dropped, too", async || pages().await == 0.0).await;
}

/// A client that asks for everything and takes next to nothing of it.
async fn reader_that_stands_still(node: &TestNode, extra: &str) -> RawClient {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = soon("connecting", socket.connect(node.address))
        .await
        .unwrap();
    let mut client = RawClient { stream };
    let request = handshake(node.address, "/a?last=1000", extra);
    client.send(request.as_bytes()).await;
    client.read_head().await;
    client
}

/// How many messages after this one a channel no longer has.
async fn missed(node: &TestNode, path: &str, id: &str) -> u64 {
    read(node, &format!("{path}?since={id}")).await.1["missed"]
        .as_u64()
        .unwrap()
}

/// Reads until nothing comes for a while; the feed never holds more than its bound and the newest
/// batch.
async fn read_some(client: &mut RawClient, node: &TestNode) {
    let quiet = std::time::Duration::from_millis(300);
    let mut buffer = vec![0; 64 * 1024];
    assert!(
        soon("something comes", client.stream.read(&mut buffer))
            .await
            .unwrap()
            > 0
    );
    while let Ok(Ok(1..)) = tokio::time::timeout(quiet, client.stream.read(&mut buffer)).await {
        let held = node.metric("echocast_feed_bytes").await;
        // A batch of 256 KiB and one message, with every byte as six in all formats that are not
        // deflated.
        assert!(held <= 4.5 * MIB, "{held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_of_deflated_messages_inflates_no_further_than_the_inbox() {
    let cluster = Cluster::redis(1, &[]).await;
    let (node, redis) = (cluster.node(0), cluster.redis.as_ref().unwrap());
    let frame = large(0);
    let messages = 60_000 / frame.len();
    let mut listener = cluster.client(0, "/quiet").await;
    let mut clients = Vec::new();
    for channel in 0..4 {
        clients.push(RawClient::deflating(node.address, &format!("/d{channel}"), "").await);
    }
    redis.pause().await;
    for client in &mut clients {
        client.send(&frame.repeat(messages)).await;
    }
    let depth = "echocast_inbox_depth";
    until("the inbox is full", async || {
        node.metric(depth).await >= 255.0
    })
    .await;
    for _ in 0..20 {
        let waiting = node.metric(depth).await;
        assert!(
            waiting <= 260.0,
            "16 MiB and a message of each client are 260; {waiting} wait"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    redis.unpause().await;
    let (all, relayed) = ((4 * messages) as f64, "echocast_messages_relayed_total");
    until("all of it is published in the end", async || {
        node.metric(relayed).await >= all
    })
    .await;
    listener.say("still here").await;
    listener.expect(["still here"]).await;
}

async fn a_message_beyond_the_rate_is_not_inflated(cluster: Cluster) {
    let limited = TestNode::start(
        &limited_flags(&cluster)
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )
    .await;
    let mut client = RawClient::deflating(limited.address, "/a", "").await;
    // Of the last one inflating would fail, and the close would say so.
    client
        .send(&[large(b'a').repeat(3), masked(0xc1, &[0xff; 300])].concat())
        .await;
    assert_eq!(client.close_code().await, 1008);
    assert_eq!(
        limited
            .metric("echocast_messages_received_total{transport=\"websocket\"}")
            .await,
        3.0
    );
    let mut other = RawClient::deflating(limited.address, "/a", "").await;
    other.send(&masked(0xc1, &[0xff; 300])).await;
    assert_eq!(
        other.close_code().await,
        1007,
        "below the rate it is inflated"
    );
}

fn limited_flags(cluster: &Cluster) -> Vec<String> {
    let redis = cluster
        .redis
        .iter()
        .flat_map(|redis| ["--redis-url".to_owned(), redis.url()]);
    redis
        .chain(["--message-rate".to_owned(), "3".to_owned()])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_count_and_when_they_fill_the_budget_requests_are_refused() {
    let node = TestNode::start(&["--memory", "16MiB"]).await;
    // A message may take six times as much in JSON, and the end of it never comes.
    let (length, masks) = (390_000u64, [0; 4]);
    let mut frame = [&[0x81, 0xff][..], &length.to_be_bytes(), &masks].concat();
    frame.resize(frame.len() + 380_000, b'x');
    let mut clients = Vec::new();
    for _ in 0..60 {
        let client = RawClient::deflating(
            node.address,
            "/a",
            "Sec-WebSocket-Protocol: echocast.v1\r\n",
        )
        .await;
        let sending = client.stream.try_write(&frame[..64 * 1024]);
        sending.unwrap();
        clients.push(client);
    }
    let rest = clients.into_iter().map(|mut client| {
        let rest = frame[64 * 1024..].to_vec();
        tokio::spawn(async move {
            // It stops when it is not read from.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &rest).await;
            std::future::pending::<()>().await;
        })
    });
    let rest: Vec<_> = rest.collect();
    let input = "echocast_memory_bytes{part=\"input\"}";
    until("the budget is full", async || {
        node.metric(input).await >= 15.9 * MIB
    })
    .await;
    let held = memory(&node).await;
    assert!(
        held <= 18.0 * MIB,
        "a read of each client at most is beyond it: {held}"
    );
    let (status, _, body) = post(node.address, "/b", &[], b"hello").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("memory"), "{body}");
    rest.iter().for_each(tokio::task::JoinHandle::abort);
    until("it goes on when they are gone", async || {
        post(node.address, "/b", &[], b"hello").await.0 == 200
    })
    .await;
    until("nothing is counted any more", async || {
        node.metric(input).await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_owed_so_many_answers_and_all_of_them_come_in_the_end() {
    const MESSAGES: usize = 10_000;
    let cluster = Cluster::redis(1, &[]).await;
    let (node, redis) = (cluster.node(0), cluster.redis.as_ref().unwrap());
    let mut client = V1Client::connect(&node.url("/a?echo=false")).await;
    redis.pause().await;
    for number in 0..MESSAGES {
        client
            .send(serde_json::json!({ "data": "", "ref": number.to_string() }))
            .await;
    }
    let depth = "echocast_inbox_depth";
    until("it is owed 4,096 answers", async || {
        node.metric(depth).await >= 4096.0
    })
    .await;
    for _ in 0..10 {
        let waiting = node.metric(depth).await;
        assert!(waiting <= 4096.0, "{waiting}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    redis.unpause().await;
    for number in 0..MESSAGES {
        assert_eq!(client.next().await["ack"], number.to_string());
    }
}
