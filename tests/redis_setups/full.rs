//! A Redis that is full and evicts nothing: it refuses what is published, and nobody needs its
//! memory to listen.

use serde_json::Value;

use crate::support::client::{TestClient, http_get};
use crate::support::events::{EventStream, post, publish};
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;

/// Newcomers come while this Redis is full.
async fn newcomers_are_let_in(redis: Redis) {
    let flags = ["--redis-url", &redis.url()];
    let mut nodes = vec![TestNode::start(&flags).await];
    let first = publish(nodes[0].address, "/known", "one").await;
    publish(nodes[0].address, "/known", "two").await;
    // Without a client, the first node does not hold the channel's end any more once it is swept.
    let swept = async || nodes[0].metric("echocast_channels").await == 0.0;
    until("the channel is swept", swept).await;
    redis
        .tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    redis.tell(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let (status, _, why) = post(nodes[0].address, "/known", &[], b"three").await;
    assert!(
        status == 503 && why.contains("OOM") && why.contains("was not published"),
        "{status} {why}"
    );

    nodes.push(TestNode::start(&flags).await);
    let mut listeners = Vec::new();
    for node in &nodes {
        let mut listener = TestClient::connect(&node.url("/known?last=1")).await;
        listener.expect(["two"]).await;
        listeners.push(listener);
        let mut resumed = TestClient::connect(&node.url(&format!("/known?since={first}"))).await;
        resumed.expect(["two"]).await;
        let mut events = EventStream::open(node.address, "/known?last=2", None).await;
        events.expect(["one", "two"]).await;
        let data = http_get(
            node.address,
            "/known?last=2",
            &[("accept", "application/json")],
        )
        .await;
        let view: Value = serde_json::from_str(&data.1).unwrap();
        assert_eq!(
            (data.0, view["messages"].as_array().map(Vec::len)),
            (200, Some(2)),
            "{view}"
        );
        listeners.push(TestClient::connect(&node.url("/never-seen?last=1")).await);
    }

    redis.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
    for channel in ["/known", "/never-seen"] {
        until("redis takes messages again", async || {
            post(nodes[1].address, channel, &[], b"after").await.0 == 200
        })
        .await;
    }
    for listener in &mut listeners {
        listener.expect(["after"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_are_let_in_while_redis_7_is_full() {
    newcomers_are_let_in(Redis::start_image("redis", "7-bookworm").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_are_let_in_while_redis_8_is_full() {
    newcomers_are_let_in(Redis::start().await).await;
}
