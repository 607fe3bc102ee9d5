//! Who gets in, and what the others are told.

mod names;
mod limits;

use crate::support::client::{RawClient, TestClient, handshake};
use crate::support::node::TestNode;
use crate::support::soon;

/// Status and the one line of a refused handshake.
async fn refused(node: &TestNode, path: &str, extra: &str) -> (u16, String) {
    refused_request(
        node,
        &handshake(node.address, path, &format!("{extra}Connection: close\r\n")),
    )
    .await
}

async fn refused_request(node: &TestNode, request: &str) -> (u16, String) {
    let mut client = RawClient::connect(node.address).await;
    client.send(request.as_bytes()).await;
    let head = client.read_head().await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap()
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    soon(
        "a body",
        tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut body),
    )
    .await
    .unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(body.matches('\n').count(), 1, "one line: {body:?}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_answered_as_the_rfc_asks() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    client
        .send(handshake(node.address, "/", "").as_bytes())
        .await;
    let head = client.read_head().await.to_ascii_lowercase();
    // The key and its answer are the example of RFC 6455, section 1.3.
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{head}"
    );
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    assert!(
        !head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_sent_together_with_the_handshake_are_heard() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let mut bytes = handshake(node.address, "/", "").into_bytes();
    bytes.extend(crate::support::client::masked(0x81, b"early"));
    client.send(&bytes).await;
    client.read_head().await;
    assert_eq!(client.read_frame().await, (0x81, b"early".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_offered_subprotocol_is_echoed() {
    let node = TestNode::start(&[]).await;
    let offered = [("sec-websocket-protocol", "chat.v9, superchat")];
    let client = TestClient::try_connect(&node.url("/"), &offered)
        .await
        .unwrap();
    assert_eq!(
        client.response.headers()["sec-websocket-protocol"],
        "chat.v9"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_refused_with_a_line_that_says_why() {
    let node = TestNode::start(&[]).await;
    let whole = handshake(node.address, "/", "");
    let without = |line: &str| {
        whole
            .lines()
            .filter(|l| !l.starts_with(line))
            .fold(String::new(), |a, l| a + l + "\r\n")
    };
    let cases = [
        (without("Sec-WebSocket-Key"), 400, "no Sec-WebSocket-Key"),
        (
            without("Sec-WebSocket-Version"),
            400,
            "no Sec-WebSocket-Version",
        ),
        (without("Connection"), 400, "Connection header"),
        (
            whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
            400,
            "16 bytes",
        ),
        (
            whole.replace("Version: 13", "Version: 8"),
            426,
            "version 13",
        ),
        (whole.replace("GET", "PUT"), 405, "GET"),
        (whole.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
    ];
    for (request, status, why) in cases {
        let answer = refused_request(&node, &request).await;
        assert!(
            answer.0 == status && answer.1.contains(why),
            "{request}\n{answer:?}"
        );
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"malformed\"}")
            .await,
        5.0
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"version\"}")
            .await,
        1.0
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"method\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_lost_its_upgrade_on_the_way_is_told_so() {
    let node = TestNode::start(&[]).await;
    let whole = handshake(node.address, "/", "Accept: text/html, */*\r\n");
    let stripped = whole.replace("Upgrade: websocket\r\n", "");
    for request in [
        stripped.clone(),
        stripped.replace("Connection: Upgrade", "Connection: close"),
        stripped
            .replace("Connection: Upgrade", "Connection: close")
            .replace("HTTP/1.1", "HTTP/1.0"),
        stripped.replace("Connection: Upgrade\r\n", ""),
        whole.replace("Upgrade: websocket", "Upgrade: h2c"),
        stripped.replace("text/html, */*", "text/event-stream"),
    ] {
        let (status, why) = refused_request(&node, &request).await;
        assert!(
            status == 426 && why.contains("Upgrade: websocket") && why.contains("proxy"),
            "{request}\n{why}"
        );
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"no_upgrade\"}")
            .await,
        6.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_origins_may_connect_if_origins_are_named() {
    let open = TestNode::start(&[]).await;
    TestClient::try_connect(&open.url("/"), &[("origin", "https://anywhere.example")])
        .await
        .unwrap();
    let strict = TestNode::start(&[
        "--allow-origin",
        "https://ok.example:443, http://localhost:3000",
    ])
    .await;
    for origin in [
        "https://ok.example",
        "HTTPS://OK.example",
        "http://localhost:3000",
    ] {
        TestClient::try_connect(&strict.url("/"), &[("origin", origin)])
            .await
            .unwrap();
    }
    TestClient::connect(&strict.url("/")).await;
    for origin in [
        "https://evil.example",
        "http://ok.example",
        "https://ok.example:444",
        "null",
    ] {
        let answer = TestClient::try_connect(&strict.url("/"), &[("origin", origin)])
            .await
            .err()
            .unwrap();
        assert_eq!(answer.0, 403, "{origin}");
    }
    assert_eq!(
        strict
            .metric("echocast_handshakes_refused_total{reason=\"origin\"}")
            .await,
        4.0
    );
}
