//! Odd values of every parameter and header that a request may have: each is honoured, rejected by
//! name, or ignored as the documentation of `src/http.rs` has it, alike for every kind of request.

use serde_json::Value;

use crate::support::client::{RawClient, TestClient, handshake, http};
use crate::support::cluster::Cluster;
use crate::support::events::{EventStream, post, publish};
use crate::support::node::TestNode;
use crate::support::on_both_brokers;
use crate::support::v1::V1Client;

on_both_brokers!(
    a_parameter_is_honoured_in_the_same_way_by_every_kind_of_subscription,
    a_value_that_means_nothing_is_refused_by_name_for_every_kind_of_request,
    a_body_is_text_if_it_can_be_and_its_publisher_does_not_ask_otherwise,
);

/// A query, headers, and which of four messages come first; 0 is a gap. `$2` is the id of the
/// second message.
type Honoured = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [u8],
);

const HONOURED: [Honoured; 34] = [
    ("", &[], &[]),
    ("?", &[], &[]),
    // Not ours, whatever it is.
    ("?a=b&&c=%zz&%zz=1&=x&LAST=1&token=&presence=many", &[], &[]),
    ("?last=2", &[], &[3, 4]),
    ("?last=0", &[], &[]),
    ("?last=0002", &[], &[3, 4]),
    ("?last=99999999999999999999999", &[], &[1, 2, 3, 4]),
    ("?%6cast=%32", &[], &[3, 4]),
    ("?last=2&last=2", &[], &[3, 4]),
    ("?echo=true", &[], &[]),
    ("?echo=false&last=1", &[], &[4]),
    ("?echo=fals%65&echo=false", &[], &[]),
    ("?since=$2", &[], &[3, 4]),
    ("?since=$2&since=$2", &[], &[3, 4]),
    ("?since=$4", &[], &[]),
    ("?since=", &[], &[]),
    ("?since", &[], &[]),
    ("?since=&last=1", &[], &[4]),
    ("?since=0-0", &[], &[1, 2, 3, 4]),
    // Of another history.
    ("?since=0123456789abcdef-7", &[], &[0, 1, 2, 3, 4]),
    ("?lastEventId=$2", &[], &[3, 4]),
    ("?lastEventId=", &[], &[]),
    ("?lastEventId=0123456789abcdef-7", &[], &[0, 1, 2, 3, 4]),
    // Another service's: a client that repeats it cannot help that.
    ("?lastEventId=42", &[], &[0, 1, 2, 3, 4]),
    ("", &[("last-event-id", "$2")], &[3, 4]),
    (
        "",
        &[("last-event-id", "$2"), ("last-event-id", "$2")],
        &[3, 4],
    ),
    ("", &[("last-event-id", "")], &[]),
    ("", &[("last-event-id", "42")], &[0, 1, 2, 3, 4]),
    ("", &[("last-event-id", "$2, $3")], &[0, 1, 2, 3, 4]),
    (
        "",
        &[("last-event-id", "0123456789abcdef-7")],
        &[0, 1, 2, 3, 4],
    ),
    // The one that was set last wins.
    (
        "?lastEventId=$1&since=$2&last=4",
        &[("last-event-id", "$3")],
        &[4],
    ),
    ("?since=$2&lastEventId=$3&last=4", &[], &[4]),
    ("?last=4&since=$3", &[], &[4]),
    ("?since=$3&lastEventId=", &[("last-event-id", "")], &[4]),
];

/// A query, headers, and the name that the answer has to tell.
type Refused = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const REFUSED: [Refused; 42] = [
    ("?last=abc", &[], "last"),
    ("?last", &[], "last"),
    ("?last=", &[], "last"),
    ("?last=-1", &[], "last"),
    ("?last=+1", &[], "last"),
    ("?last=%2B1", &[], "last"),
    ("?last=1+", &[], "last"),
    ("?last=1.0", &[], "last"),
    ("?last=1e3", &[], "last"),
    ("?last=0x1", &[], "last"),
    ("?last=%EF%BC%91", &[], "last"),
    ("?last=1&last=2", &[], "last"),
    ("?last=1&x&last", &[], "last"),
    ("?last=%zz", &[], "last"),
    ("?last=1%", &[], "last"),
    ("?last=1%ff", &[], "last"),
    ("?%6cast=%6cast", &[], "last"),
    ("?echo=maybe", &[], "echo"),
    ("?echo", &[], "echo"),
    ("?echo=", &[], "echo"),
    ("?echo=False", &[], "echo"),
    ("?echo=0", &[], "echo"),
    ("?echo=no", &[], "echo"),
    ("?echo=true&echo=false", &[], "echo"),
    ("?echo=tru%6", &[], "echo"),
    ("?since=abc", &[], "since"),
    ("?since=42", &[], "since"),
    ("?since=7-", &[], "since"),
    ("?since=-7", &[], "since"),
    ("?since=%2B7-1", &[], "since"),
    ("?since=7-1+", &[], "since"),
    ("?since=null", &[], "since"),
    ("?since=7-18446744073709551616", &[], "since"),
    ("?since=7-1&since=7-2", &[], "since"),
    ("?since=%g7-1", &[], "since"),
    ("?lastEventId=7-1&lastEventId=7-2", &[], "lastEventId"),
    ("?lastEventId=%g7-1", &[], "lastEventId"),
    (
        "",
        &[("last-event-id", "7-1"), ("last-event-id", "7-2")],
        "Last-Event-ID",
    ),
    // Also where another one wins.
    ("?last=abc&since=7-1", &[], "last"),
    ("?since=abc&lastEventId=7-1", &[], "since"),
    ("?since=abc", &[("last-event-id", "7-1")], "since"),
    (
        "?lastEventId=%g7-1",
        &[("last-event-id", "7-1")],
        "lastEventId",
    ),
];

async fn a_parameter_is_honoured_in_the_same_way_by_every_kind_of_subscription(cluster: Cluster) {
    for (row, (query, headers, expected)) in HONOURED.into_iter().enumerate() {
        for transport in [Transport::WebSocket, Transport::Events, Transport::Json] {
            let channel = format!("/{transport:?}/{row}");
            let ids = fill(&cluster, &channel).await;
            let filled = |text: &str| {
                (1..).zip(&ids).fold(text.to_owned(), |text, (at, id)| {
                    text.replace(&format!("${at}"), id)
                })
            };
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, filled(value)))
                .collect();
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let path = format!("{channel}{}", filled(query));
            let first = transport.first(&cluster, &path, &headers).await;
            assert_eq!(first, expected, "{transport:?} {query} {headers:?}");
            // It asks for nothing that a publisher could have.
            assert_eq!(
                post(cluster.node(0).address, &path, &headers, b"").await.0,
                200,
                "{query} {headers:?}"
            );
        }
    }
    assert_eq!(
        cluster
            .metric("echocast_handshakes_refused_total{reason=\"bad_parameter\"}")
            .await,
        0.0
    );
}

async fn a_value_that_means_nothing_is_refused_by_name_for_every_kind_of_request(cluster: Cluster) {
    let node = cluster.node(0);
    for (query, headers, name) in REFUSED {
        let path = format!("/a{query}");
        let as_json = [&[("accept", "application/json")], headers].concat();
        let as_events = [&[("accept", "text/event-stream")], headers].concat();
        let (status, _, view) = http(node.address, "GET", &path, &as_json).await;
        // No stream that ends and is opened again: it would never be right.
        let (events_status, _, events) = http(node.address, "GET", &path, &as_events).await;
        let (post_status, _, posted) = post(node.address, &path, headers, b"x").await;
        let (socket_status, socket) = TestClient::try_connect(&node.url(&path), headers)
            .await
            .err()
            .unwrap();
        assert_eq!(
            [status, events_status, post_status, socket_status],
            [400; 4],
            "{query} {headers:?}"
        );
        for why in [view, events, posted, socket] {
            assert!(
                why.starts_with(&format!("bad value of {name}: ")) && why.ends_with('\n'),
                "{query}: {why}"
            );
        }
        assert_eq!(
            http(node.address, "HEAD", &path, &as_events).await.0,
            400,
            "{query} {headers:?}"
        );
        // A page is not subscribed yet; when it is, it is told.
        let page = [&[("accept", "text/html")], headers].concat();
        assert_eq!(
            http(node.address, "GET", &path, &page).await.0,
            200,
            "{query} {headers:?}"
        );
    }
    let refused = node
        .metric("echocast_handshakes_refused_total{reason=\"bad_parameter\"}")
        .await;
    assert_eq!(refused, 5.0 * REFUSED.len() as f64);
    assert_eq!(
        node.metric("echocast_messages_received_total{transport=\"http\"}")
            .await,
        0.0
    );
}

async fn a_body_is_text_if_it_can_be_and_its_publisher_does_not_ask_otherwise(cluster: Cluster) {
    let mut listener = cluster.client(1, "/a").await;
    let utf8 = "gr\u{fc}\u{df}e".as_bytes();
    let octets = ("Content-Type", "application/octet-stream");
    let text = ("Content-Type", "text/plain; charset=utf-8");
    for (headers, body, is_text) in [
        (&[][..], utf8, true),
        (&[octets], utf8, true),
        (&[octets], b"", true),
        (
            &[("Content-Type", "Application/Octet-Stream; x=y")],
            b"{}",
            true,
        ),
        (
            &[("Content-Type", "application/x-www-form-urlencoded")],
            b"a=b",
            true,
        ),
        (&[("Content-Type", "")], b"\0", true),
        (&[], b"\xff", false),
        (&[text], &utf8[..3], false),
        (&[octets], &[0, 255], false),
        (&[("Echocast-Kind", "binary")], utf8, false),
        (&[("echocast-kind", " Binary "), text], b"", false),
        (
            &[("Echocast-Kind", "binary"), ("Echocast-Kind", "binary")],
            b"x",
            false,
        ),
        (&[("Echocast-Kind", "binary")], b"\xff", false),
        (&[("Echocast-Kind", "TEXT"), octets], utf8, true),
        (&[("Echocast-Kind", "text")], b"", true),
    ] {
        let (status, _, answer) = post(cluster.node(0).address, "/a", headers, body).await;
        assert_eq!(status, 200, "{headers:?} {answer}");
        let message = listener.next().await;
        assert_eq!(
            (message.is_text(), &message.into_data()[..]),
            (is_text, body),
            "{headers:?}"
        );
    }
    for (kinds, body) in [
        (&["text"][..], &b"\xff"[..]),
        (&["Text"], &utf8[..3]),
        (&[""], b"x"),
        (&["json"], b"x"),
        (&["text, text"], b"x"),
        (&["text", "binary"], b"x"),
        (&["\u{e9}"], b"x"),
    ] {
        let headers: Vec<_> = kinds.iter().map(|kind| ("Echocast-Kind", *kind)).collect();
        let (status, _, why) = post(cluster.node(0).address, "/a", &headers, body).await;
        assert!(
            status == 400 && why.starts_with("bad value of Echocast-Kind: "),
            "{kinds:?} {why}"
        );
    }
    // Nothing of those came.
    publish(cluster.node(0).address, "/a", "the end").await;
    listener.expect(["the end"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_a_post_is_honoured_or_refused_by_name_or_ignored() {
    let node = TestNode::start(&[]).await;
    let (longest, too_long) = ("k".repeat(256), "k".repeat(257));
    for (headers, refused) in [
        (&[("Idempotency-Key", longest.as_str())][..], None),
        (
            &[("Idempotency-Key", "twice"), ("idempotency-key", "twice")],
            None,
        ),
        (
            &[("Idempotency-Key", "once"), ("Idempotency-Key", "twice")],
            Some("Idempotency-Key"),
        ),
        (&[("Idempotency-Key", "")], Some("Idempotency-Key")),
        (
            &[("Idempotency-Key", too_long.as_str())],
            Some("Idempotency-Key"),
        ),
        (&[("Idempotency-Key", "\u{e9}")], Some("Idempotency-Key")),
        // Its specification asks for that, and that of content types does not know what we could
        // do.
        (&[("traceparent", "")], None),
        (
            &[("traceparent", "00-nonsense-01"), ("traceparent", "\u{e9}")],
            None,
        ),
        (&[("Content-Type", "")], None),
        (
            &[("Content-Type", "no type"), ("Content-Type", "\u{e9}")],
            None,
        ),
        (&[("Accept", ";;q=\u{e9}")], None),
        (&[("Access-Control-Request-Headers", "\u{e9}")], None),
    ] {
        let (status, _, body) = post(node.address, "/a", headers, b"x").await;
        let expected = refused.map_or("{\"id\":".to_owned(), |name| {
            format!("bad value of {name}: ")
        });
        assert_eq!(
            status,
            if refused.is_some() { 400 } else { 200 },
            "{headers:?} {body}"
        );
        assert!(body.starts_with(&expected), "{headers:?} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_a_handshake_is_honoured_or_refused_by_name() {
    let node = TestNode::start(&[]).await;
    for (offered, chosen) in [
        (&[][..], None),
        (&[""], None),
        (&[" , ,"], None),
        (&[", chat,,echo"], Some("chat")),
        (&["", "chat"], Some("chat")),
        (&["chat, chat"], Some("chat")),
        (&["chat", "superchat, echocast.v1"], Some("echocast.v1")),
        (&["ECHOCAST.V1"], Some("ECHOCAST.V1")),
    ] {
        let offered: Vec<_> = offered
            .iter()
            .map(|value| format!("Sec-WebSocket-Protocol: {value}\r\n"))
            .collect();
        let mut client = RawClient::connect(node.address).await;
        client
            .send(handshake(node.address, "/a", &offered.concat()).as_bytes())
            .await;
        let head = client.read_head().await;
        let answered = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert!(
            head.starts_with("HTTP/1.1 101 ") && answered == chosen,
            "{offered:?} {head}"
        );
    }
    for (extra, name) in [
        (
            "Sec-WebSocket-Protocol: a chat\r\n",
            "Sec-WebSocket-Protocol",
        ),
        (
            "Sec-WebSocket-Protocol: echocast.v1, ch\u{e9}t\r\n",
            "Sec-WebSocket-Protocol",
        ),
        (
            "Sec-WebSocket-Protocol: chat;v=1\r\n",
            "Sec-WebSocket-Protocol",
        ),
        (
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
            "Sec-WebSocket-Key",
        ),
        ("Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Version"),
    ] {
        let mut client = RawClient::connect(node.address).await;
        let extra = format!("{extra}Connection: close\r\n");
        client
            .send(handshake(node.address, "/a", &extra).as_bytes())
            .await;
        let answer = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 ")
                && answer.contains(&format!("bad value of {name}: ")),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_origin_that_a_request_names_has_to_be_allowed() {
    let node = TestNode::start(&["--allow-origin", "https://ok.example"]).await;
    let (ok, evil) = (
        ("Origin", "https://ok.example"),
        ("Origin", "https://evil.example"),
    );
    for (headers, expected) in [
        (&[ok][..], 200),
        (&[ok, ok], 200),
        (&[ok, evil], 403),
        (&[evil, ok], 403),
        (&[("Origin", "")], 403),
    ] {
        assert_eq!(
            post(node.address, "/a", headers, b"x").await.0,
            expected,
            "{headers:?}"
        );
    }
}

/// Publishes 1, 2, 3 and 4, and returns their ids once every node has them.
async fn fill(cluster: &Cluster, channel: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for text in ["1", "2", "3", "4"] {
        ids.push(publish(cluster.node(0).address, channel, text).await);
    }
    let url = cluster.node(1).url(&format!("{channel}?since=0-0"));
    V1Client::connect(&url)
        .await
        .expect(["1", "2", "3", "4"])
        .await;
    ids
}

/// Published once a client has subscribed.
const NEXT: u8 = 9;

#[derive(Clone, Copy, Debug)]
enum Transport {
    WebSocket,
    Events,
    Json,
}

impl Transport {
    /// The messages that a client of the second node receives before one that is published later; 0
    /// is a gap.
    async fn first(
        self,
        cluster: &Cluster,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Vec<u8> {
        let node = cluster.node(1);
        let channel = path.split('?').next().unwrap();
        let mut first = Vec::new();
        match self {
            Self::WebSocket => {
                let offered = [&[("sec-websocket-protocol", "echocast.v1")], headers].concat();
                let mut client = TestClient::try_connect(&node.url(path), &offered)
                    .await
                    .unwrap();
                publish(cluster.node(0).address, channel, &NEXT.to_string()).await;
                assert!(client.hear().await.contains("\"welcome\""));
                while first.last() != Some(&NEXT) {
                    first.push(number(&serde_json::from_str(&client.hear().await).unwrap()));
                }
                first.pop();
            }
            Self::Events => {
                let mut stream = EventStream::open_with(node.address, path, headers).await;
                publish(cluster.node(0).address, channel, &NEXT.to_string()).await;
                while first.last() != Some(&NEXT) {
                    let event = stream.next().await.unwrap();
                    // One without data tells a place to a client that has none yet.
                    if event.kind == "gap" {
                        first.push(0);
                    } else if !event.data.is_empty() {
                        first.push(event.data.parse().unwrap());
                    }
                }
                first.pop();
            }
            Self::Json => {
                let headers = [&[("accept", "application/json")], headers].concat();
                let (status, _, body) = http(node.address, "GET", path, &headers).await;
                assert_eq!(status, 200, "{body}");
                let view: Value = serde_json::from_str(&body).unwrap();
                first.extend((view.get("missed") == Some(&Value::Null)).then_some(0));
                first.extend(
                    view["messages"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(number),
                );
            }
        }
        first
    }
}

fn number(message: &Value) -> u8 {
    if message["event"] == "gap" {
        0
    } else {
        message["data"].as_str().unwrap().parse().unwrap()
    }
}
