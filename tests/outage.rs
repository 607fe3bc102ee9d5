//! Redis goes and comes back, and the service goes on by itself.

use std::time::Duration;

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::events::publish;
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

/// Waits until every node says how its broker is.
async fn broker(cluster: &Cluster, up: bool) {
    let wanted = if up { cluster.nodes.len() as f64 } else { 0.0 };
    until("the nodes notice", async || {
        cluster.metric("echocast_broker_up").await == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_costs_nobody_a_connection_and_what_was_said_meanwhile_arrives() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let (mut here, mut there) = (cluster.client(0, "/").await, cluster.client(1, "/").await);
    here.say("before").await;
    here.expect(["before"]).await;
    there.expect(["before"]).await;
    redis.kill().await;
    broker(&cluster, false).await;
    assert_eq!(
        cluster.node(0).get_ops("/readyz").await,
        (200, "ready, broker away\n".into())
    );
    here.say("meanwhile").await;
    assert!(there.hears_nothing_for(Duration::from_millis(300)).await);
    // A newcomer is told, because nobody could promise it anything.
    let (status, why) = TestClient::try_connect(&cluster.node(0).url("/other"), &[])
        .await
        .err()
        .unwrap();
    assert!(status == 503 && why.contains("broker"), "{status} {why}");
    redis.restart().await;
    broker(&cluster, true).await;
    there.say("after").await;
    let mut heard = [there.hear().await, there.hear().await];
    assert_eq!([here.hear().await, here.hear().await], heard, "one order");
    heard.sort();
    assert_eq!(heard, ["after", "meanwhile"]);
    assert!(cluster.metric("echocast_broker_reconnects_total").await >= 2.0);
    cluster.client(0, "/other").await.say("welcome now").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_noticed_though_its_sockets_stay_open() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let (mut here, mut there) = (cluster.client(0, "/").await, cluster.client(1, "/").await);
    redis.pause().await;
    broker(&cluster, false).await;
    here.say("meanwhile").await;
    redis.unpause().await;
    broker(&cluster, true).await;
    there.expect(["meanwhile"]).await;
    here.expect(["meanwhile"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_in_redis_are_made_again() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let (mut here, mut there) = (cluster.client(0, "/").await, cluster.client(1, "/").await);
    for (round, kind) in ["pubsub", "normal", "pubsub", "normal"]
        .into_iter()
        .enumerate()
    {
        let before = cluster.metric("echocast_broker_reconnects_total").await;
        let mut connection = redis.connect().await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL")
            .arg("TYPE")
            .arg(kind)
            .exec_async(&mut connection)
            .await
            .unwrap();
        if kind == "pubsub" {
            until("both subscribe again", async || {
                cluster.metric("echocast_broker_reconnects_total").await == before + 2.0
            })
            .await;
        }
        let text = format!("round {round}");
        here.say(&text).await;
        here.expect([text.as_str()]).await;
        there.expect([text.as_str()]).await;
    }
    assert_eq!(
        cluster
            .metric("echocast_messages_lost_total{cause=\"broker\"}")
            .await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_start_before_its_redis_and_is_ready_once_it_is_there() {
    let redis = Redis::start().await;
    redis.kill().await;
    let node = TestNode::start_unready(&["--redis-url", &redis.url()]).await;
    assert_eq!(
        node.get_ops("/readyz").await,
        (503, "starting, broker not reached yet\n".into())
    );
    assert_eq!(node.get_ops("/livez").await.0, 200);
    redis.restart().await;
    node.wait_ready().await;
    let mut client = TestClient::connect(&node.url("/")).await;
    client.say("hello").await;
    client.expect(["hello"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_left_in_an_outage_has_missed_nothing_when_it_is_joined_again() {
    // Several, because only some are giving the subscription up when the link breaks: others notice
    // by their probes.
    const NODES: usize = 5;
    let mut cluster = Cluster::redis(1, &["--history", "5"]).await;
    let redis = cluster.redis.as_ref().unwrap().url();
    for _ in 0..NODES {
        // A second channel pushes out the one that was left.
        let flags = [
            "--redis-url",
            &redis,
            "--history",
            "5",
            "--max-channels",
            "1",
        ];
        cluster.nodes.push(TestNode::start(&flags).await);
    }
    let mut clients = Vec::new();
    for index in 1..=NODES {
        clients.push(cluster.client(index, "/a").await);
    }
    publish(cluster.node(0).address, "/a", "before").await;
    for client in &mut clients {
        client.expect(["before"]).await;
    }
    drop(clients);
    until("they have left", async || {
        cluster
            .metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 0.0
    })
    .await;
    cluster.redis.as_ref().unwrap().pause().await;
    let others: Vec<_> = (1..=NODES)
        .map(|index| {
            let url = cluster.node(index).url("/other");
            tokio::spawn(async move { TestClient::try_connect(&url, &[]).await.map(drop) })
        })
        .collect();
    broker(&cluster, false).await;
    cluster.redis.as_ref().unwrap().unpause().await;
    broker(&cluster, true).await;
    for other in others {
        // Let in or refused: it only had to come.
        let _ = other.await.unwrap();
    }
    for number in 0..12 {
        publish(cluster.node(0).address, "/a", &number.to_string()).await;
    }
    for index in 1..=NODES {
        until("it is let in", async || {
            TestClient::try_connect(&cluster.node(index).url("/a?last=12"), &[])
                .await
                .is_ok()
        })
        .await;
        let mut client = V1Client::connect(&cluster.node(index).url("/a?last=12")).await;
        client.expect(["7", "8", "9", "10", "11"]).await;
    }
    assert_eq!(
        cluster
            .metric("echocast_messages_lost_total{cause=\"broker\"}")
            .await,
        0.0
    );
}
