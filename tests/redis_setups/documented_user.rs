//! A user who may do exactly what the runbook lists: enough for each kind of address, and taken by
//! each Redis that it names.

use redis::Value;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::support::client::http_get;
use crate::support::events::{EventStream, post};
use crate::support::fleet::{Fleet, may_do_what_it_must};
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

/// Does everything that needs Redis, as this user, and looks at what the servers have denied.
async fn everything_works(url: &str, servers: &mut [MultiplexedConnection]) {
    for history in ["1000", "0"] {
        let flags = ["--redis-url", url, "--history", history];
        let nodes = [TestNode::start(&flags).await, TestNode::start(&flags).await];
        publish_and_hear(&nodes, history != "0").await;
        reconnect(&nodes, servers).await;
        publish_and_hear(&nodes, history != "0").await;
        if history != "0" {
            // Channels that nobody is on are unsubscribed.
            for node in &nodes {
                until("channels are swept", async || {
                    node.metric("echocast_channels").await == 0.0
                })
                .await;
            }
            publish_and_hear(&nodes, true).await;
        }
    }
    for server in servers {
        let denied: Vec<Value> = redis::cmd("ACL")
            .arg("LOG")
            .query_async(server)
            .await
            .unwrap();
        assert!(denied.is_empty(), "{denied:?}");
    }
}

/// On channels of several slots: what is published is heard on both nodes, resumed and read.
async fn publish_and_hear([here, there]: &[TestNode; 2], has_history: bool) {
    for channel in ["/a", "/b", "/c", "/d"] {
        let mut listeners = [
            V1Client::connect(&here.url(channel)).await,
            V1Client::connect(&there.url(channel)).await,
        ];
        let mut ids = Vec::new();
        for text in ["one", "two"] {
            let key: [(&str, &str); 1] =
                [("idempotency-key", &format!("{:x}", rand::random::<u64>()))];
            let (status, _, answer) = post(here.address, channel, &key, text.as_bytes()).await;
            assert_eq!(status, 200, "{answer}");
            ids.push(serde_json::from_str::<serde_json::Value>(&answer).unwrap()["id"].clone());
        }
        listeners[1]
            .send(json!({ "data": "three", "ref": "1" }))
            .await;
        for listener in &mut listeners {
            for text in ["one", "two", "three"] {
                while listener.next().await["data"] != text {}
            }
        }
        if has_history {
            let since = ids[0].as_str().unwrap();
            let mut resumed =
                V1Client::connect(&there.url(&format!("{channel}?since={since}"))).await;
            resumed.expect(["two", "three"]).await;
            EventStream::open(here.address, channel, Some(since))
                .await
                .expect(["two", "three"])
                .await;
            let (status, view) = http_get(
                there.address,
                &format!("{channel}?last=2"),
                &[("accept", "application/json")],
            )
            .await;
            assert!(
                status == 200 && view.contains("two") && view.contains("three"),
                "{status} {view}"
            );
        }
    }
}

/// Kills the user's connections and waits until both nodes are well again.
async fn reconnect(nodes: &[TestNode; 2], servers: &mut [MultiplexedConnection]) {
    let reconnects = async |node: &TestNode| node.metric("echocast_broker_reconnects_total").await;
    let before = [reconnects(&nodes[0]).await, reconnects(&nodes[1]).await];
    for server in servers {
        redis::cmd("CLIENT")
            .arg("KILL")
            .arg("USER")
            .arg("echocast")
            .exec_async(server)
            .await
            .unwrap();
    }
    for (node, before) in nodes.iter().zip(before) {
        let is_back = async || {
            reconnects(node).await > before && node.metric("echocast_broker_up").await == 1.0
        };
        until("the node subscribes again", is_back).await;
    }
}

/// One server, in each database that is written here.
async fn on_one_server(name: &str, tag: &str) {
    let redis = Redis::start_image(name, tag).await;
    let mut connection = redis.connect().await;
    may_do_what_it_must(&mut connection).await;
    let url = redis.url().replace("redis://", "redis://echocast:secret@");
    for database in ["", "/3"] {
        everything_works(&format!("{url}{database}"), &mut [connection.clone()]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_redis_7() {
    on_one_server("redis", "7-bookworm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_redis_8() {
    on_one_server("redis", "8-alpine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_valkey_8() {
    on_one_server("valkey/valkey", "8-alpine").await;
}

/// Sentinels with a user of their own, and a database.
async fn with_sentinels(image: &str) {
    let fleet = Fleet::sentinels_of(image).await;
    let runbook = include_str!("../../deploy/README.md");
    let may = ["+hello", "+sentinel|get-master-addr-by-name"];
    assert!(
        may.iter().all(|may| runbook.contains(may)),
        "the runbook has this"
    );
    for port in 7010..7013 {
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER")
            .arg("asker")
            .arg("on")
            .arg(">watch")
            .arg("-@all")
            .arg(&may);
        user.exec_async(&mut fleet.connect(port).await)
            .await
            .unwrap();
    }
    let url = format!(
        "{}/2?sentinel_username=asker&sentinel_password=watch",
        fleet.sentinel_url()
    );
    everything_works(&url, &mut [fleet.connect(7000).await]).await;
    for port in 7010..7013 {
        let mut connection = fleet.connect(port).await;
        let denied: Vec<Value> = redis::cmd("ACL")
            .arg("LOG")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(denied.is_empty(), "{denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_of_redis_7() {
    with_sentinels("redis:7-bookworm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_of_redis_8() {
    with_sentinels("redis:8-alpine").await;
}

async fn with_a_cluster(image: &str) {
    let fleet = Fleet::cluster_of(image).await;
    let mut servers = Vec::new();
    for port in 7000..7006 {
        servers.push(fleet.connect(port).await);
    }
    everything_works(&fleet.cluster_url(), &mut servers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_redis_7() {
    with_a_cluster("redis:7-bookworm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_redis_8() {
    with_a_cluster("redis:8-alpine").await;
}
