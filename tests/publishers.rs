//! What Redis remembers of publishers: enough to keep each batch once, and no more than of those
//! that may still repeat one.

use std::time::{Duration, SystemTime};

use ::redis::AsyncCommands;
use ::redis::aio::MultiplexedConnection;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::events::{post, publish};
use crate::support::node::TestNode;
use crate::support::until;
use crate::support::v1::V1Client;

const META: &str = "echocast:{quiet}:meta";

/// Fields of publishers that may be left of those that are gone.
const SPARE: usize = 16;

/// The publishers that Redis remembers of the channel.
async fn publishers(redis: &mut MultiplexedConnection) -> usize {
    let fields: Vec<String> = redis.hkeys(META).await.unwrap();
    fields
        .iter()
        .filter(|field| field.starts_with("n:"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_leave_nothing_behind() {
    let cluster = Cluster::redis(1, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let url = redis.url();
    let mut connection = redis.connect().await;
    let mut listener = V1Client::connect(&cluster.node(0).url("/quiet")).await;
    for round in 0..10 {
        let short_lived = (0..10).map(|_| async {
            let node = TestNode::start(&["--redis-url", &url]).await;
            publish(node.address, "/quiet", "x").await;
            node.stop().await;
        });
        join_all(short_lived).await;
        listener.expect(["x"; 10]).await;
        let left = publishers(&mut connection).await;
        assert!(left <= SPARE, "{left} after round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_ends_on_a_node_is_forgotten_there() {
    let cluster = Cluster::redis(1, &[]).await;
    let mut connection = cluster.redis.as_ref().unwrap().connect().await;
    publish(cluster.node(0).address, "/quiet", "x").await;
    assert_eq!(publishers(&mut connection).await, 1);
    // Ten seconds after its last client.
    until("the publisher is forgotten", async || {
        publishers(&mut connection.clone()).await == 0
    })
    .await;
    publish(cluster.node(0).address, "/quiet", "y").await;
    V1Client::connect(&cluster.node(0).url("/quiet?last=5"))
        .await
        .expect(["x", "y"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_are_forgotten_once_they_can_repeat_nothing() {
    let cluster = Cluster::redis(1, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut connection = redis.connect().await;
    publish(cluster.node(0).address, "/quiet", "x").await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    // Nodes that were killed a while ago, and some that may only have been cut off.
    for (kind, ago, count) in [(1, 601, 100), (2, 300, 10)] {
        let seconds = (now - Duration::from_secs(ago)).as_secs();
        for number in 0..count {
            let field = format!("n:{kind:08x}{number:08x}");
            let newest = format!("{:020} {seconds} epoch678 1", 1);
            let _: () = connection.hset(META, field, newest).await.unwrap();
        }
    }
    let newcomer = TestNode::start(&["--redis-url", &redis.url()]).await;
    publish(newcomer.address, "/quiet", "y").await;
    assert_eq!(publishers(&mut connection).await, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_redis_refuses_leave_no_gap() {
    const STREAM: &str = "echocast:{quiet}:history";
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut listeners = Vec::new();
    for index in 0..2 {
        listeners.push(V1Client::connect(&cluster.node(index).url("/quiet")).await);
    }
    for round in 0..3 {
        // The first messages of a history are refused, because its key is somebody else's.
        redis.tell(&["FLUSHALL"]).await;
        redis.tell(&["SET", STREAM, "not ours"]).await;
        redis
            .tell(&["HSET", META, "epoch", "12345678", "offset", "0"])
            .await;
        for _ in 0..2 {
            let (status, _, why) = post(cluster.node(0).address, "/quiet", &[], b"no").await;
            assert!(
                status == 503 && why.contains("wrong kind"),
                "{status} {why}"
            );
        }
        redis.tell(&["FLUSHALL"]).await;
        for index in [0, 1, 0] {
            let text = format!("{round} {index}");
            publish(cluster.node(index).address, "/quiet", &text).await;
            for listener in &mut listeners {
                let next = listener.next().await;
                assert_eq!(next["data"], json!(text), "{next}");
            }
        }
    }
    let lost = "echocast_messages_lost_total{cause=\"broker\"}";
    assert_eq!(cluster.metric(lost).await, 0.0);
}
