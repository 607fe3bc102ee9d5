//! Requests that are made to confuse: their heads, and the hosts they name.

use crate::support::client::{RawClient, TestClient, http, status};
use crate::support::node::TestNode;

/// Status and text of the answer to these bytes.
async fn answer(node: &TestNode, request: &str) -> (u16, String) {
    let mut client = RawClient::connect(node.address).await;
    client.send(request.as_bytes()).await;
    let (head, body) = client.read_response().await;
    (status(&head), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_one_host() {
    let node = TestNode::start(&[]).await;
    let json = "Accept: application/json\r\n";
    for (request, status, why) in [
        (
            format!("GET /x HTTP/1.1\r\n{json}\r\n"),
            400,
            "no Host header",
        ),
        (
            format!("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n{json}\r\n"),
            400,
            "more than one Host header",
        ),
        (
            format!("GET /x HTTP/1.1\r\nHost: a\r\nhost: a\r\n{json}\r\n"),
            400,
            "more than one Host header",
        ),
        (
            format!("GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n{json}\r\n"),
            400,
            "more than one Host header",
        ),
        (
            format!("GET /x HTTP/1.1\r\nHost: a, b\r\n{json}\r\n"),
            400,
            "names no host",
        ),
        (
            "POST /x HTTP/1.1\r\nHost: me@a\r\nContent-Length: 1\r\n\r\nx".to_owned(),
            400,
            "names no host",
        ),
        (format!("GET /x HTTP/1.0\r\n{json}\r\n"), 200, "\"channel\""),
        (
            format!("GET /x HTTP/1.1\r\nHost:\r\n{json}\r\n"),
            200,
            "\"channel\"",
        ),
        (
            format!("GET /x HTTP/1.1\r\nHost: [::1]:8080\r\n{json}\r\n"),
            200,
            "\"channel\"",
        ),
    ] {
        let (got, text) = answer(&node, &request).await;
        assert!(
            got == status && text.contains(why),
            "{request}: {got} {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_at_most_32_kib_to_the_byte() {
    let node = TestNode::start(&[]).await;
    let head = |length: usize, lines: usize, path: &str| {
        let begin = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: application/json\r\n");
        let mut fill = "a: b\r\n".repeat(lines) + "fill: ";
        fill += &"x".repeat(length - begin.len() - fill.len() - "\r\n\r\n".len());
        let head = format!("{begin}{fill}\r\n\r\n");
        assert_eq!(head.len(), length);
        head
    };
    let long = format!("/x?{}", "y".repeat(20_000));
    for (lines, path) in [(0, "/x"), (80, "/x"), (0, &long)] {
        assert_eq!(answer(&node, &head(32 * 1024, lines, path)).await.0, 200);
        let (status, text) = answer(&node, &head(32 * 1024 + 1, lines, path)).await;
        assert!(
            status == 431 && text.contains("32768 bytes"),
            "{status} {text}"
        );
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"head_too_large\"}")
            .await,
        3.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_rebinds_its_name_is_no_way_around_the_list_of_origins() {
    let node = TestNode::start(&[
        "--allow-origin",
        "https://ok.example, http://localhost:3000",
    ])
    .await;
    let signs = [
        "Sec-Fetch-Site: same-origin\r\n",
        "Referer: http://evil.example/\r\n",
        "Accept-Language: en\r\n",
        "User-Agent: Mozilla/5.0 (X11)\r\n",
    ];
    let kinds = [
        ("GET", "Accept: application/json\r\n"),
        ("GET", "Accept: text/event-stream\r\n"),
        ("POST", "Content-Length: 0\r\n"),
        (
            "GET",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
        ),
    ];
    let mut refused = 0;
    for host in [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1",
        "notok.example",
        "ok.example.evil.example",
    ] {
        for sign in signs {
            for (method, kind) in kinds {
                let request = format!("{method} /x HTTP/1.1\r\nHost: {host}\r\n{sign}{kind}\r\n");
                let (status, text) = answer(&node, &request).await;
                assert!(
                    status == 403 && text.contains(host),
                    "{request}: {status} {text}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"origin\"}")
            .await,
        f64::from(refused)
    );
    // As Node's `fetch` publishes.
    let program = "Accept-Language: *\r\nSec-Fetch-Mode: cors\r\nUser-Agent: node\r\n";
    let request =
        format!("POST /x HTTP/1.1\r\nHost: echocast:8080\r\n{program}Content-Length: 1\r\n\r\nx");
    assert_eq!(answer(&node, &request).await.0, 200);
    for host in ["ok.example", "OK.example:8443", "localhost:8080"] {
        let request = format!(
            "POST /x HTTP/1.1\r\nHost: {host}\r\n{}Content-Length: 1\r\n\r\nx",
            signs[0]
        );
        assert_eq!(answer(&node, &request).await.0, 200, "{host}");
    }
    // Programs show no signs of a browser, and the page itself is no channel data.
    TestClient::connect(&node.url("/x")).await.say("hi").await;
    assert_eq!(
        http(node.address, "GET", "/x", &[("accept", "application/json")])
            .await
            .0,
        200
    );
    let page = [
        ("accept", "text/html"),
        ("user-agent", "Mozilla/5.0"),
        ("sec-fetch-mode", "navigate"),
    ];
    assert_eq!(http(node.address, "GET", "/x", &page).await.0, 200);
    let open = TestNode::start(&[]).await;
    let rebound = [
        ("accept", "application/json"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(
        http(open.address, "GET", "/x", &rebound).await.0,
        200,
        "any origin may, without a list"
    );
}
