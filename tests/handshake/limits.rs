//! Limits of connections, and requests that are too long, no HTTP or never finished.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{RawClient, TestClient, handshake};
use crate::support::node::TestNode;
use crate::support::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_clients_connect_than_allowed_and_places_are_given_back() {
    let node = TestNode::start(&["--max-connections", "2"]).await;
    assert_eq!(node.metric("echocast_connections_limit").await, 2.0);
    let url = node.url("/");
    let first = TestClient::connect(&url).await;
    let mut second = TestClient::connect(&url).await;
    let (status, why) = TestClient::try_connect(&url, &[]).await.err().unwrap();
    assert!(
        status == 429 && why.contains("too many connections"),
        "{status} {why}"
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"too_many_connections\"}")
            .await,
        1.0
    );
    drop(first);
    until("a place is free", async || {
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 1.0
    })
    .await;
    let mut third = TestClient::connect(&url).await;
    third.say("in").await;
    second.expect(["in"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_limited_one_by_one_and_seen_through_trusted_proxies() {
    let node = TestNode::start(&[
        "--address-connections",
        "1",
        "--trusted-proxy",
        "127.0.0.0/8,10.0.0.0/8",
    ])
    .await;
    let url = node.url("/");
    let by = async |forwarded: &str| {
        TestClient::try_connect(&url, &[("x-forwarded-for", forwarded)]).await
    };
    let _one = by("192.0.2.1").await.unwrap();
    let _two = by("192.0.2.2").await.unwrap();
    // The proxies' own hops are passed over, and what the client wrote itself is not believed.
    assert_eq!(by("192.0.2.1, 10.0.0.7").await.err().unwrap().0, 429);
    assert_eq!(by("198.51.100.9, 192.0.2.2").await.err().unwrap().0, 429);
    let _three = by("192.0.2.1, 192.0.2.3").await.unwrap();
    let with =
        async |headers: &[(&'static str, &str)]| TestClient::try_connect(&url, headers).await;
    // However a proxy writes it; where it says `Forwarded` only, that counts.
    let _four = by("\"[2001:db8:0:4::1]:4711\"").await.unwrap();
    for again in [
        "2001:db8:0:4::1",
        "[2001:db8:0:4::2]",
        "[2001:db8:0:4::1]:80, \"[::ffff:10.0.0.7]:80\"",
        "2001:db8:0:4::1,",
    ] {
        assert_eq!(by(again).await.err().unwrap().0, 429, "{again}");
    }
    for again in [
        &[
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ][..],
        &[
            ("forwarded", "for=192.0.2.9"),
            ("forwarded", "for=192.0.2.1;proto=https, For=10.0.0.7"),
        ],
        &[("forwarded", "for=\"192.0.2.9, for=\"[2001:db8:0:4::9]:80\"")],
        &[
            ("forwarded", "for=192.0.2.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ],
    ] {
        assert_eq!(with(again).await.err().unwrap().0, 429, "{again:?}");
    }
    let _five = with(&[("forwarded", "for=192.0.2.1, for=192.0.2.5")])
        .await
        .unwrap();

    let direct = TestNode::start(&["--address-connections", "1"]).await;
    let _mine = TestClient::connect(&direct.url("/")).await;
    let forged = [("x-forwarded-for", "192.0.2.1")];
    assert_eq!(
        TestClient::try_connect(&direct.url("/"), &forged)
            .await
            .err()
            .unwrap()
            .0,
        429
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_handshake_and_silence_is_ended_and_costs_the_others_nothing() {
    let node = TestNode::start(&[]).await;
    let mut silent = RawClient::connect(node.address).await;
    silent.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgr").await;
    let mut other = TestClient::connect(&node.url("/")).await;
    other.say("fine").await;
    other.expect(["fine"]).await;
    silent.read_to_end().await;
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"timeout\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_a_million_bytes_is_refused_early() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let request = handshake(
        node.address,
        "/",
        &format!("X-Big: {}\r\n", "x".repeat(1_000_000)),
    );
    // The server hangs up before it has all of it, so sending may fail.
    let (mut read, mut write) = client.stream.split();
    let sent = async {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut write, request.as_bytes()).await;
    };
    let answer = async {
        let mut first = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut read, &mut first)
            .await
            .map(|_| first)
    };
    let (answer, ()) = soon("an answer", async { tokio::join!(answer, sent) }).await;
    assert_eq!(String::from_utf8(answer.unwrap()).unwrap(), "HTTP/1.1 431");
    until("it is counted", async || {
        node.metric("echocast_handshakes_refused_total{reason=\"no_http\"}")
            .await
            == 1.0
    })
    .await;
    TestClient::connect(&node.url("/")).await.say("fine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_node_goes_on() {
    let node = TestNode::start(&[]).await;
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"HELO there\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = RawClient::connect(node.address).await;
        client.send(junk).await;
        let answer = client.read_to_end().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    TestClient::connect(&node.url("/")).await.say("fine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_during_its_handshake_gives_its_place_back() {
    let node = TestNode::start(&[]).await;
    for _ in 0..20 {
        let mut client = RawClient::connect(node.address).await;
        client
            .send(handshake(node.address, "/", "").as_bytes())
            .await;
        drop(client);
    }
    until("all have gone", async || {
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 0.0
    })
    .await;
    let mut client = TestClient::connect(&node.url("/")).await;
    client.send(Message::text("x")).await;
    client.expect(["x"]).await;
    assert!(client.hears_nothing_for(Duration::from_millis(1)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_with_a_body_is_refused_and_holds_nothing() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let head = "GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 1000000\r\n\r\n";
    client.send(head.as_bytes()).await;
    client.send(&vec![0; 300_000]).await;
    let answer = client.read_head().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(client);
    let connections = "echocast_connections{transport=\"http\"}";
    until("nothing is held", async || {
        node.metric(connections).await == 0.0
    })
    .await;
    assert_eq!(
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await,
        0.0
    );
}
