//! Event streams for every kind of client: polyfills, pages of other origins, proxies on the way,
//! and a node that cannot serve them now.

use crate::support::client::{RawClient, http};
use crate::support::cluster::Cluster;
use crate::support::events::{EventStream, post, publish};
use crate::support::node::TestNode;
use crate::support::v1::V1Client;
use crate::support::{on_both_brokers, until};

on_both_brokers!(
    a_client_that_cannot_send_headers_resumes_by_its_address,
    an_empty_place_is_none,
);

const PAGE: &str = "https://app.example";

async fn a_client_that_cannot_send_headers_resumes_by_its_address(cluster: Cluster) {
    let mut ids = Vec::new();
    for text in ["1", "2", "3", "4"] {
        ids.push(publish(cluster.node(0).address, "/a", text).await);
    }
    let [first, second, third, _] = &ids[..] else {
        unreachable!("four were published")
    };
    for (query, header, expected) in [
        (format!("?lastEventId={second}"), None, &["3", "4"][..]),
        (format!("?x=1&lastEventId={second}&y"), None, &["3", "4"]),
        // The first place stays in the address of a client that comes back.
        (format!("?since={first}&lastEventId={third}"), None, &["4"]),
        (
            format!("?lastEventId={first}"),
            Some(third.as_str()),
            &["4"],
        ),
        (format!("?last=1&lastEventId={second}"), None, &["3", "4"]),
    ] {
        let path = format!("/a{query}");
        let mut stream = EventStream::open(cluster.node(1).address, &path, header).await;
        stream.expect(expected.iter().copied()).await;
        if header.is_none() {
            V1Client::connect(&cluster.node(1).url(&path))
                .await
                .expect(expected.iter().copied())
                .await;
            let json = [("accept", "application/json")];
            let (_, _, view) = http(cluster.node(1).address, "GET", &path, &json).await;
            assert_eq!(
                view.matches("\"data\"").count(),
                expected.len(),
                "{path}: {view}"
            );
        }
    }
}

async fn an_empty_place_is_none(cluster: Cluster) {
    publish(cluster.node(0).address, "/a", "before").await;
    for (query, header) in [
        ("?lastEventId=", None),
        ("?since=", None),
        ("?since=&lastEventId=", Some("")),
    ] {
        let mut stream =
            EventStream::open(cluster.node(1).address, &format!("/a{query}"), header).await;
        publish(cluster.node(0).address, "/a", "after").await;
        // Only its place comes before: no gap, nothing old.
        let event = stream.next().await.unwrap();
        let event = if event.data.is_empty() {
            stream.next().await.unwrap()
        } else {
            event
        };
        assert_eq!(
            (event.kind.as_str(), event.data.as_str()),
            ("", "after"),
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_asks_proxies_to_leave_it_as_it_is() {
    let node = TestNode::start(&[]).await;
    for method in ["GET", "HEAD"] {
        let mut client = RawClient::connect(node.address).await;
        let request =
            format!("{method} /a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
        client.send(request.as_bytes()).await;
        let head = client.read_head().await;
        assert!(
            head.contains("cache-control: no-cache, no-transform\r\n"),
            "{head}"
        );
        assert!(head.contains("x-accel-buffering: no\r\n"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_comes_back_after_an_outage_of_redis() {
    let cluster = Cluster::redis(1, &[]).await;
    let (node, redis) = (cluster.node(0), cluster.redis.as_ref().unwrap());
    let id = publish(node.address, "/a", "before").await;
    redis.pause().await;
    until("the node notices", async || {
        node.metric("echocast_broker_up").await == 0.0
    })
    .await;
    let events = [("accept", "text/event-stream")];
    let (status, head, body) = http(node.address, "GET", "/new", &events).await;
    assert!(
        status == 200 && head.contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    let retry = body
        .lines()
        .find_map(|line| line.strip_prefix("retry: "))
        .unwrap();
    assert!((500..10_000).contains(&retry.parse().unwrap()), "{body}");
    assert!(
        body.contains(": the broker is away") && body.ends_with("\n\n"),
        "{body}"
    );
    // Others can read a status.
    assert_eq!(
        http(
            node.address,
            "GET",
            "/new",
            &[("accept", "application/json")]
        )
        .await
        .0,
        503
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"broker_away\"}")
            .await,
        2.0
    );
    redis.unpause().await;
    until("the node notices", async || {
        node.metric("echocast_broker_up").await == 1.0
    })
    .await;
    publish(node.address, "/a", "after").await;
    EventStream::open(node.address, "/a", Some(&id))
        .await
        .expect(["after"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_comes_back_when_a_limit_allows_it() {
    let node = TestNode::start(&["--max-channels", "1"]).await;
    let _only = EventStream::open(node.address, "/a", None).await;
    let events = [("accept", "text/event-stream")];
    let (status, _, body) = http(node.address, "GET", "/b", &events).await;
    assert!(
        status == 200 && body.contains("retry: ") && body.contains("channels"),
        "{status} {body}"
    );
    // A request that will not be right later either gets its status.
    assert_eq!(http(node.address, "GET", "/b//", &events).await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_listed_origins_may_send_credentials_and_any_header() {
    let node = TestNode::start(&["--allow-origin", PAGE]).await;
    let wanted = "baggage,x-datadog-trace-id,cache-control,authorization";
    let preflight = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", wanted),
    ];
    let mut stream = RawClient::connect(node.address).await;
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.send(request.as_bytes()).await;
    let heads = [
        stream.read_head().await,
        post(node.address, "/a", &[("origin", PAGE)], b"x").await.1,
        http(
            node.address,
            "GET",
            "/a",
            &[("origin", PAGE), ("accept", "application/json")],
        )
        .await
        .1,
        post(node.address, "/a/", &[("origin", PAGE)], b"x").await.1,
        http(node.address, "OPTIONS", "/a", &preflight).await.1,
    ];
    for head in &heads {
        let head = format!("{head}\r\n");
        assert!(
            head.contains("access-control-allow-credentials: true\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("access-control-allow-origin: {PAGE}\r\n")),
            "{head}"
        );
        assert!(head.contains("vary: ") && head.contains("origin"), "{head}");
    }
    assert!(
        heads[4].contains(&format!("access-control-allow-headers: {wanted}")),
        "{}",
        heads[4]
    );
    let other = http(
        node.address,
        "OPTIONS",
        "/a",
        &[
            ("origin", "https://evil.example"),
            preflight[1],
            preflight[2],
        ],
    )
    .await;
    assert!(!other.1.contains("access-control-allow-"), "{}", other.1);

    let open = TestNode::start(&[]).await;
    // A page may send our own headers, asked or not.
    let head = http(open.address, "OPTIONS", "/a", &preflight[..1]).await.1;
    let allowed = head
        .lines()
        .find_map(|line| line.strip_prefix("access-control-allow-headers: "))
        .unwrap();
    for name in [
        "content-type",
        "echocast-kind",
        "idempotency-key",
        "last-event-id",
    ] {
        assert!(
            allowed.split(", ").any(|allowed| allowed == name),
            "{name}: {allowed}"
        );
    }
    let head = http(open.address, "OPTIONS", "/a", &preflight).await.1;
    assert!(
        head.contains("access-control-allow-origin: *") && !head.contains("credentials"),
        "{head}"
    );
}
