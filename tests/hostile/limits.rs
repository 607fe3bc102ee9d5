//! Limits of connections and rates: what counts, for whom, from when to when.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::{RawClient, TestClient, deflated, handshake, http, masked};
use crate::support::node::TestNode;
use crate::support::{soon, until};

const REFUSED: &str = "echocast_handshakes_refused_total";

fn get(accept: &str, extra: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n{extra}\r\n")
}

fn post(body: &str) -> String {
    format!(
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Connects and asks; the answer has begun when this returns.
async fn ask(node: &TestNode, request: &str) -> (RawClient, String) {
    let mut client = RawClient::connect(node.address).await;
    client.send(request.as_bytes()).await;
    let head = client.read_head().await;
    (client, head)
}

async fn open(node: &TestNode) -> [f64; 3] {
    let mut open = [0.0; 3];
    for (open, transport) in open.iter_mut().zip(["websocket", "sse", "http"]) {
        *open = node
            .metric(&format!(
                "echocast_connections{{transport=\"{transport}\"}}"
            ))
            .await;
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_connection_takes_one_place_and_gives_it_back() {
    for flag in ["--address-connections", "--max-connections"] {
        let node = TestNode::start(&[flag, "4"]).await;
        let websocket = TestClient::connect(&node.url("/x")).await;
        let (events, head) = ask(&node, &get("text/event-stream", "")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (view, head) = ask(&node, &get("application/json", "")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let silent = RawClient::connect(node.address).await;
        until("all four count", async || {
            open(&node).await == [1.0, 1.0, 2.0]
        })
        .await;

        for request in [
            get("application/json", ""),
            get("text/event-stream", ""),
            post("x"),
        ] {
            let (mut client, head) = ask(&node, &request).await;
            assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
            assert!(
                head.contains("connection: close") && head.contains("retry-after: 5"),
                "{head}"
            );
            let why = String::from_utf8(client.read_to_end().await).unwrap();
            assert!(why.starts_with("too many connections "), "{why}");
        }
        assert_eq!(
            TestClient::try_connect(&node.url("/x"), &[])
                .await
                .err()
                .unwrap()
                .0,
            429
        );
        assert_eq!(
            node.metric(&format!("{REFUSED}{{reason=\"too_many_connections\"}}"))
                .await,
            4.0
        );

        drop((websocket, events, view, silent));
        until("all places are free", async || {
            open(&node).await == [0.0; 3]
        })
        .await;
        TestClient::connect(&node.url("/x")).await.say("in").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_those_that_are_told_are_reset_and_other_addresses_get_in() {
    let node = TestNode::start(&["--address-connections", "1"]).await;
    let _silent = RawClient::connect(node.address).await;
    until("it counts", async || open(&node).await[2] == 1.0).await;
    let mut beyond = Vec::new();
    let mut reset = 0;
    for _ in 0..20 {
        match soon("connecting", TcpStream::connect(node.address)).await {
            Ok(stream) => beyond.push(stream),
            // On a busy machine: mostly a connection looks open before it is reset.
            Err(error) => reset += usize::from(error.kind() == ErrorKind::ConnectionReset),
        }
    }
    for stream in &mut beyond {
        let end = soon("an end", stream.read(&mut [0; 1])).await;
        reset += usize::from(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    // Two of an address are waited for at a time, and then closed in order.
    assert!(reset >= 18, "{reset}");
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.77:0".parse().unwrap()).unwrap();
    let mut other = RawClient {
        stream: other.connect(node.address).await.unwrap(),
    };
    other.send(get("application/json", "").as_bytes()).await;
    assert!(other.read_head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_proxy_count_by_their_own_address_while_they_are_served() {
    let node = TestNode::start(&[
        "--address-connections",
        "1",
        "--trusted-proxy",
        "127.0.0.0/8",
    ])
    .await;
    let client = |ip: &str| get("application/json", &format!("X-Forwarded-For: {ip}\r\n"));
    let (_first, _) = ask(&node, &client("192.0.2.1")).await;
    let (_second, head) = ask(&node, &client("192.0.2.1")).await;
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "the first request is over: {head}"
    );
    let forwarded = [("x-forwarded-for", "2001:db8:0:1::1")];
    let staying = TestClient::try_connect(&node.url("/x"), &forwarded)
        .await
        .unwrap();
    let (_third, head) = ask(&node, &client("2001:db8:0:1:8::9")).await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(
        !head.contains("connection: close"),
        "the proxy's connection is others', too: {head}"
    );
    drop(staying);
    until("its place is free", async || {
        ask(&node, &client("2001:db8:0:1::2"))
            .await
            .1
            .contains(" 200 ")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_one_address_whichever_family_it_was_accepted_with() {
    let flags = [
        "--address-connections",
        "1",
        "--trusted-proxy",
        "127.0.0.0/30,::ffff:127.0.0.8/126",
    ];
    let node = TestNode::start_at("[::]:0", &flags).await;
    let port = node.address.port();
    let connect = async |from: &str, to: &str| {
        let socket = if to.contains(':') {
            TcpSocket::new_v6()
        } else {
            TcpSocket::new_v4()
        }
        .unwrap();
        socket
            .bind(SocketAddr::new(from.parse().unwrap(), 0))
            .unwrap();
        RawClient {
            stream: socket
                .connect(SocketAddr::new(to.parse().unwrap(), port))
                .await
                .unwrap(),
        }
    };
    let status = async |client: &mut RawClient, extra: &str| {
        client.send(get("application/json", extra).as_bytes()).await;
        client
            .read_head()
            .await
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned()
    };
    let mut first = connect("127.0.0.5", "127.0.0.1").await;
    assert_eq!(status(&mut first, "").await, "200");
    // Another address of IPv4 is another client; the same one is not.
    let mut other = connect("127.0.0.6", "127.0.0.1").await;
    assert_eq!(status(&mut other, "").await, "200");
    let mut second = connect("127.0.0.5", "127.0.0.1").await;
    assert_eq!(status(&mut second, "").await, "429");
    let mut sixth = connect("::1", "::1").await;
    assert_eq!(status(&mut sixth, "").await, "200");
    // Proxies are known by IPv4 addresses, in either notation, and what they say of their clients
    // is, too.
    let forwarded = [("x-forwarded-for", "192.0.2.7")];
    let _busy = TestClient::try_connect(&format!("ws://127.0.0.1:{port}/"), &forwarded)
        .await
        .unwrap();
    for proxy in ["127.0.0.2", "127.0.0.10"] {
        let mut through = connect(proxy, "127.0.0.1").await;
        assert_eq!(
            status(&mut through, "X-Forwarded-For: ::ffff:192.0.2.7\r\n").await,
            "429"
        );
        let mut through = connect(proxy, "127.0.0.1").await;
        assert_eq!(
            status(&mut through, "X-Forwarded-For: 192.0.2.8\r\n").await,
            "200"
        );
    }
}

/// Sends these at once on one connection; statuses, and the seconds it took.
async fn pipelined(node: &TestNode, requests: Vec<String>) -> (Vec<u16>, f64) {
    let begun = Instant::now();
    let mut client = RawClient::connect(node.address).await;
    let count = requests.len();
    client.send(requests.concat().as_bytes()).await;
    let mut statuses = Vec::new();
    while statuses.len() < count {
        let head = client.read_head().await;
        statuses.push(head.split(' ').nth(1).unwrap().parse().unwrap());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        soon("a body", client.stream.read_exact(&mut body))
            .await
            .unwrap();
    }
    (statuses, begun.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_an_address_are_limited_over_all_its_connections() {
    let node = TestNode::start(&["--address-rate", "3"]).await;
    let begun = Instant::now();
    let mut served = 0;
    for _ in 0..3 {
        let requests = (0..10)
            .map(|index| {
                if index % 2 == 0 {
                    get("application/json", "")
                } else {
                    post("x")
                }
            })
            .collect();
        let (statuses, _) = pipelined(&node, requests).await;
        assert!(
            statuses.iter().all(|status| [200, 429].contains(status)),
            "{statuses:?}"
        );
        served += statuses.iter().filter(|status| **status == 200).count();
    }
    let most = 3.0 + 3.0 * begun.elapsed().as_secs_f64();
    assert!(
        served >= 3 && served as f64 <= most,
        "{served} of at most {most}"
    );
    assert_eq!(
        node.metric(&format!("{REFUSED}{{reason=\"rate\"}}")).await,
        30.0 - served as f64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_count_as_messages_of_their_connection() {
    let node = TestNode::start(&["--message-rate", "2"]).await;
    for _ in 0..2 {
        let (statuses, took) = pipelined(&node, vec![post("x"); 20]).await;
        let said = statuses.iter().filter(|status| **status == 200).count();
        assert!(
            said >= 2 && said as f64 <= 2.0 + 2.0 * took,
            "{statuses:?} in {took} s"
        );
        assert!(
            statuses.iter().all(|status| [200, 429].contains(status)),
            "{statuses:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_posts_count_for_their_connection() {
    let node = TestNode::start(&["--byte-rate", "1", "--max-message", "4KiB"]).await;
    let body = "x".repeat(3 * 1024);
    let (statuses, _) = pipelined(&node, vec![post(&body), post(&body), post("x")]).await;
    assert_eq!(
        statuses,
        [200, 429, 200],
        "the second does not fit, and costs nothing"
    );
    assert_eq!(
        pipelined(&node, vec![post(&body)]).await.0,
        [200],
        "another connection has bytes of its own"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_request_says_when_to_come_back() {
    let node = TestNode::start(&["--address-rate", "1"]).await;
    let last = soon("one is too many", async {
        loop {
            let answer = http(node.address, "GET", "/x", &[("accept", "application/json")]).await;
            if answer.0 == 429 {
                return answer;
            }
        }
    })
    .await;
    assert!(
        last.1.contains("retry-after: 1") && last.2.contains("a second from your address"),
        "{last:?}"
    );
}

/// Sends frames on a WebSocket and returns the code and reason of its close, and how many messages
/// were published.
async fn closed_for(node: &TestNode, extra: &str, frames: &[u8]) -> (u16, String, f64) {
    let mut client = RawClient::connect(node.address).await;
    client
        .send(handshake(node.address, "/x?echo=false", extra).as_bytes())
        .await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    client.send(frames).await;
    let (first, payload) = client.read_frame().await;
    assert_eq!(first, 0x88, "a close frame");
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    let published = node
        .metric("echocast_messages_received_total{transport=\"websocket\"}")
        .await;
    (
        code,
        String::from_utf8_lossy(&payload[2..]).into_owned(),
        published,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_websocket_count_in_every_format() {
    let node = TestNode::start(&["--byte-rate", "1", "--max-message", "4KiB"]).await;
    let (text, json) = (
        "x".repeat(3 * 1024),
        format!("{{\"data\":\"{}\"}}", "x".repeat(3 * 1024)),
    );
    let (deflate, v1) = (
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Protocol: echocast.v1\r\n",
    );
    let too_many = |published: f64| (1008, "too many bytes a second".to_owned(), published);
    let plain = masked(0x81, text.as_bytes()).repeat(2);
    assert_eq!(closed_for(&node, "", &plain).await, too_many(1.0));
    let deflated = masked(0xc1, &deflated(text.as_bytes())).repeat(2);
    assert_eq!(closed_for(&node, deflate, &deflated).await, too_many(2.0));
    let mut client = RawClient::connect(node.address).await;
    client
        .send(handshake(node.address, "/x?echo=false", v1).as_bytes())
        .await;
    client.read_head().await;
    client.read_frame().await;
    client.send(&masked(0x81, json.as_bytes()).repeat(2)).await;
    assert_eq!(client.close_code().await, 1008);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_connections_of_an_address_count_together() {
    let node = TestNode::start(&["--address-rate", "10"]).await;
    let begun = Instant::now();
    let mut published = 0.0;
    for _ in 0..4 {
        let (code, why, all) = closed_for(&node, "", &masked(0x81, b"x").repeat(30)).await;
        assert_eq!(
            (code, why.as_str()),
            (1008, "too many messages a second from your address")
        );
        published = all;
        // Time for the next request, which counts, too.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // If each connection had ten of its own it would be some 40.
    let allowed = 10.0 + 10.0 * begun.elapsed().as_secs_f64();
    assert!(published <= allowed, "{published} of {allowed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_have_a_limit_and_those_without_clients_make_room() {
    let node = TestNode::start(&["--max-channels", "2"]).await;
    let _first = TestClient::connect(&node.url("/first")).await;
    let second = TestClient::connect(&node.url("/second")).await;
    let (status, body) = TestClient::try_connect(&node.url("/third"), &[])
        .await
        .err()
        .unwrap();
    assert_eq!(status, 503, "{body}");
    let (status, _, body) = crate::support::events::post(node.address, "/third", &[], b"x").await;
    assert_eq!((status, body.contains("channels")), (503, true), "{body}");
    assert_eq!(
        node.metric(&format!("{REFUSED}{{reason=\"too_many_channels\"}}"))
            .await,
        2.0
    );
    drop(second);
    until("the one without clients goes", async || {
        TestClient::try_connect(&node.url("/third"), &[])
            .await
            .is_ok()
    })
    .await;
}
