//! HTTP connections: how long they are kept, and how they end: every request is answered, also one
//! whose body is refused or whose client says no more.

use std::time::{Duration, Instant};

use echocast::broker::{Broker, Link};
use echocast::hub::Intake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::support::client::{RawClient, TestClient, http};
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::{on_both_brokers, soon, until};

on_both_brokers!(
    a_client_that_closes_its_side_gets_every_answer,
    a_client_that_waits_with_its_body_is_asked_for_it_only_if_it_is_wanted,
);

/// The largest message by default.
const MAX_MESSAGE: usize = 64 * 1024;

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ports_tell_how_long_an_idle_connection_is_kept_and_keep_it_so_long() {
    const IDLE: Duration = Duration::from_secs(4);
    let node = TestNode::start(&["--idle-timeout", "4s"]).await;
    let kept = async |address, request: String, status: u16| {
        let mut client = RawClient::connect(address).await;
        for _ in 0..2 {
            client.send(request.as_bytes()).await;
            let (head, _) = client.read_response().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(
                head.contains("\r\nconnection: keep-alive\r\nkeep-alive: timeout=4\r\n"),
                "{head}"
            );
            let closed = tokio::time::timeout(IDLE / 2, client.stream.read_u8()).await;
            assert!(closed.is_err(), "closed although it was told");
        }
        let begun = Instant::now();
        client.read_to_end().await;
        // Half of the time was over before.
        assert!(
            begun.elapsed() > IDLE / 2 - Duration::from_millis(500),
            "closed after {:?}",
            begun.elapsed()
        );
    };
    tokio::join!(
        kept(node.address, post("/a", "hi"), 200),
        kept(node.address, post("/no//channel", "hi"), 400),
        kept(
            node.ops,
            "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            200
        ),
    );
}

/// A request with a body of so many bytes, in chunks or with its length.
fn large(method: &str, path: &str, bytes: usize, chunked: bool) -> Vec<u8> {
    let head = |extra: String| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n\r\n").into_bytes()
    };
    if !chunked {
        return [head(format!("Content-Length: {bytes}")), vec![b'x'; bytes]].concat();
    }
    let chunk = [
        format!("{MAX_MESSAGE:x}\r\n").into_bytes(),
        vec![b'x'; MAX_MESSAGE],
        b"\r\n".to_vec(),
    ]
    .concat();
    let mut request = head("Transfer-Encoding: chunked".to_owned());
    request.extend(chunk.repeat(bytes / MAX_MESSAGE));
    request.extend(b"0\r\n\r\n");
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_all_of_a_refused_body_reads_the_answer_and_then_the_end() {
    let node = TestNode::start(&[]).await;
    for bytes in [320 * 1024, 3 << 20, 10 << 20] {
        for chunked in [false, true] {
            for (address, method, path, status) in [
                (node.address, "POST", "/a", 413),
                (node.address, "POST", "/a/", 400),
                (node.address, "PUT", "/a", 405),
                (node.address, "POST", "/_/style.css", 405),
                (node.ops, "POST", "/livez", 405),
                (node.ops, "POST", "/nothing", 404),
            ] {
                let mut client = RawClient::connect(address).await;
                client.send(&large(method, path, bytes, chunked)).await;
                let (head, _) = client.read_response().await;
                assert!(
                    head.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{method} {path} of {bytes}: {head}"
                );
                assert!(
                    head.contains("\r\nconnection: close\r\n") && !head.contains("keep-alive"),
                    "{head}"
                );
                assert_eq!(client.read_to_end().await, b"");
            }
        }
    }
    // What is no HTTP may be as long.
    let mut client = RawClient::connect(node.address).await;
    client
        .send(
            format!(
                "GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n",
                "x".repeat(10 << 20)
            )
            .as_bytes(),
        )
        .await;
    assert!(client.read_to_end().await.starts_with(b"HTTP/1.1 431 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_body_that_is_refused_costs_nobody_the_connection() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    for (method, path, status) in [
        ("PUT", "/a", 405),
        ("POST", "/a/", 400),
        ("GET", "/a?raw", 200),
        ("POST", "/a", 200),
    ] {
        for chunked in [false, true] {
            client
                .send(&large(method, path, MAX_MESSAGE, chunked))
                .await;
            let (head, _) = client.read_response().await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{method} {path}: {head}"
            );
            assert!(head.contains("\r\nkeep-alive: timeout=75\r\n"), "{head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_that_does_not_come_holds_up_neither_the_answer_nor_the_end() {
    let node = TestNode::start(&[]).await;
    for head in [
        "Content-Length: 1000",
        "Content-Length: 10000000",
        "Transfer-Encoding: chunked",
    ] {
        let mut client = RawClient::connect(node.address).await;
        client
            .send(format!("PUT /a HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes())
            .await;
        let (head, _) = client.read_response().await;
        assert!(
            head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nconnection: close\r\n"),
            "{head}"
        );
        assert_eq!(client.read_to_end().await, b"");
    }
    // What cannot be understood has no end that could be waited for.
    let mut client = RawClient::connect(node.address).await;
    client
        .send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\nx")
        .await;
    let (head, body) = client.read_response().await;
    assert!(
        head.starts_with("HTTP/1.1 400 ") && head.contains("\r\nconnection: close\r\n"),
        "{head}"
    );
    assert_eq!(
        (body.as_str(), client.read_to_end().await),
        ("the body did not arrive whole\n", vec![])
    );
}

async fn a_client_that_waits_with_its_body_is_asked_for_it_only_if_it_is_wanted(cluster: Cluster) {
    let node = cluster.node(0);
    let request = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    for (path, length, status) in [
        ("/a", MAX_MESSAGE + 1, 413),
        ("/a/", 5, 400),
        ("/a", 10 << 20, 413),
    ] {
        let mut client = RawClient::connect(node.address).await;
        client.send(request(path, length).as_bytes()).await;
        let (head, _) = client.read_response().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} of {length}: {head}"
        );
        assert!(
            head.contains("\r\nconnection: close\r\n"),
            "the body may come or not: {head}"
        );
        assert_eq!(client.read_to_end().await, b"");
    }
    let mut client = RawClient::connect(node.address).await;
    for _ in 0..2 {
        client.send(request("/a", 5).as_bytes()).await;
        assert_eq!(client.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(b"hello").await;
        let (head, _) = client.read_response().await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nkeep-alive: "),
            "{head}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_told_before_the_body_that_reaches_it() {
    let node = TestNode::start(&[
        "--byte-rate",
        "1KiB",
        "--max-message",
        "8KiB",
        "--max-channels",
        "1",
    ])
    .await;
    let mut first = RawClient::connect(node.address).await;
    let waiting = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 8000\r\n\r\n"
        )
    };
    let _listener = TestClient::connect(&node.url("/a")).await;
    first.send(&large("POST", "/a", 8000, false)).await;
    assert!(first.read_response().await.0.starts_with("HTTP/1.1 200 "));
    first.send(waiting("/a").as_bytes()).await;
    assert!(first.read_response().await.0.starts_with("HTTP/1.1 429 "));
    let mut second = RawClient::connect(node.address).await;
    second.send(waiting("/b").as_bytes()).await;
    assert!(second.read_response().await.0.starts_with("HTTP/1.1 503 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_body_that_was_refused_is_read_for_a_while_and_then_cut_off() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    client
        .send(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        .await;
    let (head, _) = client.read_response().await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let mut mib = 0;
    while soon("sending", client.stream.write_all(&[b'x'; 1 << 20]))
        .await
        .is_ok()
    {
        mib += 1;
    }
    // The kernel has room for some more.
    assert!((63..96).contains(&mib), "{mib} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_body_was_refused_counts_until_its_client_hangs_up() {
    let node = TestNode::start(&["--address-connections", "1"]).await;
    let mut client = RawClient::connect(node.address).await;
    client
        .send(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nbegun")
        .await;
    client.read_to_end().await;
    let asked = async || {
        let json = [("accept", "application/json")];
        http(node.address, "GET", "/a", &json).await.0
    };
    assert_eq!(asked().await, 429);
    assert_eq!(
        node.metric("echocast_connections{transport=\"http\"}")
            .await,
        1.0
    );
    drop(client);
    until("its place is free", async || asked().await == 200).await;
}

async fn a_client_that_closes_its_side_gets_every_answer(cluster: Cluster) {
    let node = cluster.node(0);
    let json = "GET /p HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n".to_owned();
    let closing = post("/p", "hi").replace("Host: x", "Host: x\r\nConnection: close");
    let chunked =
        "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            .to_owned();
    let several = post("/p", "hi").repeat(3) + json.as_str();
    for (request, answers) in [
        (post("/p", "hi"), 1),
        (post("/p", "hi").replace("1.1", "1.0"), 1),
        (closing, 1),
        (chunked, 1),
        (json, 1),
        (several, 4),
    ] {
        for _ in 0..10 {
            let mut client = RawClient::connect(node.address).await;
            client.send(request.as_bytes()).await;
            client.stream.shutdown().await.unwrap();
            let all = String::from_utf8(client.read_to_end().await).unwrap();
            let good = all.matches("HTTP/1.1 200 OK\r\n").count()
                + all.matches("HTTP/1.0 200 OK\r\n").count();
            assert_eq!(good, answers, "{request}: {all}");
        }
    }
    // Half a body is none.
    let mut client = RawClient::connect(node.address).await;
    client
        .send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhi")
        .await;
    client.stream.shutdown().await.unwrap();
    assert!(client.read_to_end().await.starts_with(b"HTTP/1.1 400 "));
    until("nobody is connected", async || {
        node.metric("echocast_connections{transport=\"http\"}")
            .await
            == 0.0
    })
    .await;
    let received = "echocast_messages_received_total{transport=\"http\"}";
    assert_eq!(node.metric(received).await, 10.0 * 7.0);
}

/// A broker that is up and never acknowledges a message.
struct Silent;

impl Broker for Silent {
    async fn run(self, link: Link, _intake: Intake, stop: CancellationToken) {
        link.status.set(true);
        stop.cancelled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_its_connection_is_not_counted_until_its_answer_is_due() {
    // The node waits for its broker longer than this.
    const PROMPTLY: Duration = Duration::from_secs(5);
    let node = TestNode::start_with(Silent, &["--shutdown-grace", "1s", "--drain-period", "0s"]);
    node.wait_ready().await;
    let mut client = RawClient::connect(node.address).await;
    client.send(post("/x", "hello").as_bytes()).await;
    until("the message waits for the broker", async || {
        node.metric("echocast_inbox_depth").await == 1.0
    })
    .await;
    let open = "echocast_connections{transport=\"http\"}";
    assert_eq!(node.metric(open).await, 1.0);
    let begun = Instant::now();
    client.stream.set_zero_linger().unwrap();
    drop(client);
    until("it is no longer counted", async || {
        node.metric(open).await == 0.0
    })
    .await;
    assert!(begun.elapsed() < PROMPTLY, "after {:?}", begun.elapsed());
    node.stop().await;
}
