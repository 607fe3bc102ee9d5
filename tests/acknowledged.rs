//! Acknowledgements and keys: what was acknowledged is kept, once, and what became of the rest is
//! told.

use std::time::Duration;

use ::redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::client::{RawClient, TestClient, handshake, http, masked};
use crate::support::cluster::Cluster;
use crate::support::events::{post, publish};
use crate::support::node::TestNode;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::v1::V1Client;
use crate::support::{on_both_brokers, until};

on_both_brokers!(
    every_answer_comes_before_the_close,
    a_key_that_left_the_history_is_new,
    a_key_belongs_to_its_message,
);

const V1: &str = "Sec-WebSocket-Protocol: echocast.v1\r\n";

/// A client of `echocast.v1` that has read its welcome.
async fn v1(cluster: &Cluster, query: &str) -> RawClient {
    let address = cluster.node(0).address;
    let mut client = RawClient::connect(address).await;
    client
        .send(handshake(address, &format!("/a{query}"), V1).as_bytes())
        .await;
    client.read_head().await;
    client.read_frame().await;
    client
}

/// What comes up to the close frame has to have the answer.
async fn answered(mut client: RawClient) -> bool {
    let mut answered = false;
    loop {
        let (first, payload) = client.read_frame().await;
        match first {
            0x88 => {
                assert!(
                    client.read_to_end().await.is_empty(),
                    "nothing follows a close"
                );
                return answered;
            }
            _ => answered |= payload.starts_with(b"{\"ack\""),
        }
    }
}

async fn every_answer_comes_before_the_close(mut cluster: Cluster) {
    let said = masked(0x81, br#"{"data":"x","ref":"1"}"#);
    for _ in 0..50 {
        let mut client = v1(&cluster, "").await;
        client
            .send(&[&said[..], &masked(0x88, &1000u16.to_be_bytes())].concat())
            .await;
        assert!(answered(client).await);
    }
    // A drain, too, answers what it took.
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = v1(&cluster, "?echo=false").await;
        client.send(&said).await;
        clients.push(client);
    }
    let node = cluster.node(0);
    until("all are heard", async || {
        node.metric("echocast_messages_received_total{transport=\"websocket\"}")
            .await
            == 100.0
    })
    .await;
    cluster.nodes[0].begin_stop();
    for client in clients {
        assert!(answered(client).await);
    }
}

async fn a_key_belongs_to_its_message(cluster: Cluster) {
    let mut listener = cluster.client(1, "/a").await;
    let key = [("Idempotency-Key", "k")];
    let (status, _, first) = post(cluster.node(0).address, "/a", &key, b"mine").await;
    assert_eq!(status, 200);
    for node in 0..2 {
        let address = cluster.node(node).address;
        let (status, _, again) = post(address, "/a", &key, b"mine").await;
        assert_eq!((status, &again), (200, &first), "a repetition");
        let binary = [key[0], ("Echocast-Kind", "binary")];
        for (headers, body) in [
            (&key[..], &b"yours"[..]),
            (&key[..], b""),
            (&binary[..], b"mine"),
        ] {
            let (status, _, why) = post(address, "/a", headers, body).await;
            assert!(
                status == 409 && why.contains("Idempotency-Key"),
                "{status} {why}"
            );
        }
        let mut client = V1Client::connect(&cluster.node(node).url("/a?echo=false")).await;
        client
            .send(json!({ "data": "yours", "key": "k", "ref": "1" }))
            .await;
        client
            .send(json!({ "data": "mine", "key": "k", "ref": "2" }))
            .await;
        client.send(json!({ "data": "yours", "key": "k" })).await;
        client
            .send(json!({ "data": format!("behind {node}"), "ref": "3" }))
            .await;
        let refused = client.answer("1").await;
        assert!(
            refused["error"].as_str().unwrap().contains("key"),
            "{refused}"
        );
        let first: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(
            client.answer("2").await,
            json!({ "ack": "2", "id": first["id"] })
        );
        assert!(client.answer("3").await["id"].is_string());
    }
    listener.expect(["mine", "behind 0", "behind 1"]).await;
    assert_eq!(
        cluster
            .metric("echocast_handshakes_refused_total{reason=\"key_taken\"}")
            .await,
        6.0
    );
    assert_eq!(
        cluster
            .metric("echocast_messages_lost_total{cause=\"refused\"}")
            .await,
        2.0,
        "those without a ref"
    );
}

async fn a_key_that_left_the_history_is_new(cluster: Cluster) {
    // The default history has 1,000 messages.
    let mut client = V1Client::connect(&cluster.node(0).url("/a?echo=false")).await;
    client
        .send(json!({ "data": "x", "ref": "first", "key": "k" }))
        .await;
    let first = client.answer("first").await["id"].clone();
    for number in 0..999 {
        client.send(json!({ "data": number.to_string() })).await;
    }
    client
        .send(json!({ "data": "x", "ref": "known", "key": "k" }))
        .await;
    assert_eq!(
        client.answer("known").await["id"],
        first,
        "the oldest that is kept"
    );
    client.say("one more").await;
    client
        .send(json!({ "data": "x", "ref": "new", "key": "k" }))
        .await;
    assert_ne!(client.answer("new").await["id"], first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_count_in_the_inbox_like_messages() {
    let cluster = Cluster::redis(1, &[]).await;
    let mut client = v1(&cluster, "?echo=false").await;
    let redis = cluster.redis.as_ref().unwrap();
    redis.pause().await;
    let frame = masked(
        0x81,
        format!("{{\"data\":\"\",\"ref\":\"{}\"}}", "r".repeat(256)).as_bytes(),
    )
    .repeat(400);
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_secs(1), client.stream.write_all(&frame)).await
    {
        written.unwrap();
        sent += frame.len();
        // 16 MiB, and what sockets hold.
        assert!(
            sent < 64 << 20,
            "the node reads on although its inbox is full"
        );
    }
    redis.unpause().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lives_as_long_as_its_message_and_no_longer_than_history() {
    let cluster = Cluster::redis(1, &["--history-ttl", "2s"]).await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    client
        .send(json!({ "data": "once", "ref": "1", "key": "k" }))
        .await;
    let first = client.answer("1").await;
    for number in 0..6 {
        client.say(&number.to_string()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    client
        .send(json!({ "data": "once", "ref": "2", "key": "k" }))
        .await;
    assert_eq!(client.answer("2").await["id"], first["id"]);
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    until("the keys go with the messages", async || {
        !redis
            .clone()
            .exists::<_, bool>("echocast:{a}:keys")
            .await
            .unwrap()
    })
    .await;
    assert!(
        !redis
            .exists::<_, bool>("echocast:{a}:history")
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_lost_answer_is_kept_once() {
    let cluster = Cluster::redis(1, &[]).await;
    let (node, redis) = (cluster.node(0), cluster.redis.as_ref().unwrap());
    assert_eq!(
        post(node.address, "/a", &[("Idempotency-Key", "taken")], b"x")
            .await
            .0,
        200
    );
    let mut client = v1(&cluster, "?echo=false").await;
    redis.pause().await;
    let mut bytes = masked(0x81, br#"{"data":"is refused","key":"taken","ref":"0"}"#);
    bytes.extend(masked(0x81, br#"{"data":"keyed","key":"k","ref":"1"}"#));
    bytes.extend(masked(0x81, br#"{"data":"plain","ref":"2"}"#));
    bytes.extend(masked(0x81, br#"{"data":"no answer wanted"}"#));
    client.send(&bytes).await;
    // Longer than the node waits for an answer; what it sent lies in Redis' socket.
    tokio::time::sleep(Duration::from_secs(5)).await;
    redis.unpause().await;
    let refused: Value = serde_json::from_slice(&client.read_frame().await.1).unwrap();
    assert!(
        refused["error"].is_string() && refused["ref"] == "0",
        "{refused}"
    );
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer: Value = serde_json::from_slice(&client.read_frame().await.1).unwrap();
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    until("all is published", async || {
        node.metric("echocast_inbox_depth").await == 0.0
    })
    .await;
    let (_, _, body) = http(
        node.address,
        "GET",
        "/a?last=100",
        &[("Accept", "application/json")],
    )
    .await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let kept: Vec<(&str, &str)> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            (
                message["id"].as_str().unwrap(),
                message["data"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(kept[1..3], [(&*ids[0], "keyed"), (&*ids[1], "plain")]);
    assert_eq!((kept.len(), kept[3].1), (4, "no answer wanted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_when_its_history_has_ended_gets_no_name_of_another() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let node = TestNode::start(&["--redis-url", &format!("redis://{}", proxy.address)]).await;
    let mut client = V1Client::connect(&node.url("/a?echo=false")).await;
    client.say("first").await;
    // The connection is probed behind a message, and then not for a second: it is the message's
    // answer that is lost.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    proxy.swallow_answers();
    client
        .send(json!({ "data": "again", "ref": "again" }))
        .await;
    let mut redis = redis.connect().await;
    until("redis has it", async || {
        redis
            .clone()
            .xlen::<_, u64>("echocast:{a}:history")
            .await
            .unwrap()
            == 2
    })
    .await;
    let mut anew = ::redis::pipe();
    anew.atomic()
        .hset("echocast:{a}:meta", "epoch", b"8 bytes.")
        .hset("echocast:{a}:meta", "offset", 0);
    anew.del("echocast:{a}:history")
        .exec_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(
        client.answer("again").await,
        json!({ "ack": "again", "id": null })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_message_that_waits_for_a_full_redis_publishers_are_told_at_once() {
    let cluster = Cluster::redis(1, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut client = v1(&cluster, "?echo=false").await;
    redis.limit_memory("1").await;
    let mut bytes = masked(0x81, br#"{"data":"waits"}"#);
    bytes.extend(masked(0x81, br#"{"data":"is refused","ref":"1"}"#));
    client.send(&bytes).await;
    let (_, answer) = client.read_frame().await;
    assert!(
        answer.starts_with(b"{\"error\""),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    redis.limit_memory("0").await;
    TestClient::connect(&cluster.node(0).url("/a?last=10"))
        .await
        .expect(["waits"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_read_as_http_says() {
    let node = TestNode::start(&[]).await;
    for kind in ["application/json", "text/event-stream", "text/html"] {
        let (status, head, body) = http(node.address, "HEAD", "/a", &[("Accept", kind)]).await;
        assert!(
            status == 200 && head.contains(kind) && body.is_empty(),
            "{kind}: {status} {head}"
        );
    }
    let mut client = RawClient::connect(node.address).await;
    client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    let answer = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("did not arrive whole"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_tells_publishers_and_wedges_nothing() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    let mut raw = cluster.client(1, "/a").await;
    client.say("before").await;
    raw.expect(["before"]).await;
    redis.limit_memory("1").await;
    client.send(json!({ "data": "refused", "ref": "1" })).await;
    let answer = client.answer("1").await;
    assert!(
        answer["error"].as_str().unwrap().contains("memory"),
        "{answer}"
    );
    raw.say("waits").await;
    // Behind one that waits, too.
    let (status, head, body) = post(cluster.node(1).address, "/a", &[], b"refused").await;
    assert!(
        status == 503 && head.contains("retry-after: ") && body.contains("memory"),
        "{status} {body}"
    );
    redis.limit_memory("0").await;
    raw.expect(["waits"]).await;
    client.say("after").await;
    raw.expect(["after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_by_request_is_refused_at_once_while_the_broker_is_away() {
    let cluster = Cluster::redis(1, &[]).await;
    let node = cluster.node(0);
    publish(node.address, "/a", "before").await;
    cluster.redis.as_ref().unwrap().kill().await;
    until("the node notices", async || {
        node.metric("echocast_broker_up").await == 0.0
    })
    .await;
    let (status, head, body) = post(node.address, "/a", &[], b"x").await;
    assert!(
        status == 503 && head.contains("retry-after: ") && body.contains("broker"),
        "{status} {head} {body}"
    );
    cluster.redis.as_ref().unwrap().restart().await;
    until("it is back", async || {
        node.metric("echocast_broker_up").await == 1.0
    })
    .await;
    publish(node.address, "/a", "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_published_say_why() {
    let node = TestNode::start(&[
        "--max-message",
        "10",
        "--allow-origin",
        "https://ok.example",
    ])
    .await;
    for (headers, body, status, why) in [
        (vec![], "12345678901", 413, "at most 10 bytes"),
        (
            vec![("Origin", "https://evil.example")],
            "x",
            403,
            "evil.example",
        ),
        (
            vec![("Idempotency-Key", "")],
            "x",
            400,
            "1 to 256 characters",
        ),
    ] {
        let (got, _, answer) = post(node.address, "/a", &headers, body.as_bytes()).await;
        assert!(got == status && answer.contains(why), "{got} {answer}");
    }
    let ok = [("Origin", "https://ok.example")];
    let (status, head, _) = post(node.address, "/a", &ok, b"x").await;
    assert!(
        status == 200 && head.contains("access-control-allow-origin: https://ok.example"),
        "{head}"
    );
    let (status, head, _) = http(node.address, "OPTIONS", "/a", &ok).await;
    assert!(
        status == 204 && head.contains("access-control-allow-methods: GET, HEAD, POST"),
        "{head}"
    );
    assert_eq!(
        node.metric("echocast_messages_received_total{transport=\"http\"}")
            .await,
        1.0
    );
}
