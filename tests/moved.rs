//! The address of Redis leads to another server than before, while the old one lives on: what is
//! published on one and listened for on the other is noticed, and everything goes on at the new
//! one.

use std::time::Duration;

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::events::post;
use crate::support::node::TestNode;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

const RECONNECTS: &str = "echocast_broker_reconnects_total";

/// Connections of which the newest command was this.
async fn connections(redis: &Redis, command: &str) -> Vec<String> {
    let mut list = ::redis::cmd("CLIENT");
    let list: String = list
        .arg("LIST")
        .query_async(&mut redis.connect().await)
        .await
        .unwrap();
    let lines = list
        .lines()
        .filter(|line| line.contains(&format!(" cmd={command} ")));
    lines
        .map(|line| {
            line.split_once("id=")
                .unwrap()
                .1
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

async fn say(node: &TestNode, text: &str) {
    let (status, _, body) = post(node.address, "/a", &[], text.as_bytes()).await;
    assert_eq!(status, 200, "{body}");
}

/// Two nodes whose address led to the first server, and leads to the second one from now on; and a
/// client of each.
async fn moved(history: &str) -> (Cluster, [V1Client; 2], [Redis; 2], Proxy) {
    let servers = [Redis::start().await, Redis::start().await];
    let way = Proxy::start(servers[0].address()).await;
    let url = format!("redis://{}", way.address);
    let mut cluster = Cluster {
        nodes: Vec::new(),
        redis: None,
    };
    for _ in 0..2 {
        cluster
            .nodes
            .push(TestNode::start(&["--redis-url", &url, "--history", history]).await);
    }
    let mut clients = [
        V1Client::connect(&cluster.node(0).url("/a")).await,
        V1Client::connect(&cluster.node(1).url("/a")).await,
    ];
    for index in 0..2 {
        say(cluster.node(index), "before").await;
        for client in &mut clients {
            assert_eq!(client.next().await["data"], json!("before"));
        }
    }
    way.lead_to(Some(servers[1].address()));
    (cluster, clients, servers, way)
}

/// Both nodes are at the new server: what is published on either is heard on both, after a gap.
async fn all_goes_on(cluster: &Cluster, clients: &mut [V1Client; 2], reconnects: f64) {
    until("the nodes notice", async || {
        cluster.metric(RECONNECTS).await >= reconnects
    })
    .await;
    until("the broker is up", async || {
        cluster.metric("echocast_broker_up").await == 2.0
    })
    .await;
    say(cluster.node(0), "after 0").await;
    say(cluster.node(1), "after 1").await;
    for client in clients {
        let mut told = false;
        loop {
            let next = client.next().await;
            told |= next["event"] == json!("gap");
            if next["data"] == json!("after 1") {
                break;
            }
        }
        assert!(told, "the other history is another one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_that_are_led_elsewhere_are_noticed() {
    let (cluster, mut clients, servers, _way) = moved("1000").await;
    // One node's publisher, then the other's; nothing else is touched.
    for index in 0..2 {
        until("its publisher has ended", async || {
            say(cluster.node(index), "meanwhile").await;
            let publishers = connections(&servers[0], "evalsha").await;
            for id in &publishers {
                servers[0].tell(&["CLIENT", "KILL", "ID", id]).await;
            }
            !publishers.is_empty()
        })
        .await;
    }
    // Heard by nobody, although it was answered 200, until that is noticed.
    say(cluster.node(0), "at the other one").await;
    say(cluster.node(1), "at the other one").await;
    all_goes_on(&cluster, &mut clients, 2.0).await;
    assert_eq!(servers[0].subscribers("echocast:{a}").await, 0);
    assert_eq!(servers[1].subscribers("echocast:{a}").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_follow_subscriptions_that_are_led_elsewhere() {
    for history in ["1000", "0"] {
        let (cluster, mut clients, servers, _way) = moved(history).await;
        servers[0].tell(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        if history == "1000" {
            all_goes_on(&cluster, &mut clients, 2.0).await;
        } else {
            until("the nodes notice", async || {
                cluster.metric(RECONNECTS).await >= 2.0
            })
            .await;
            until("the broker is up", async || {
                cluster.metric("echocast_broker_up").await == 2.0
            })
            .await;
            say(cluster.node(0), "after").await;
            for client in &mut clients {
                assert_eq!(client.next().await["data"], json!("after"));
            }
        }
        until("nobody is left there", async || {
            connections(&servers[0], "publish").await.is_empty()
                && connections(&servers[0], "evalsha").await.is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stay_are_not_made_anew() {
    let cluster = Cluster::redis(2, &[]).await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    let redis = cluster.redis.as_ref().unwrap();
    say(cluster.node(0), "first").await;
    say(cluster.node(1), "first").await;
    let ids = connections(redis, "publish").await;
    // Longer than probes may take.
    tokio::time::sleep(Duration::from_secs(6)).await;
    say(cluster.node(0), "last").await;
    client.expect(["first", "first", "last"]).await;
    let after: Vec<String> = [
        connections(redis, "publish").await,
        connections(redis, "evalsha").await,
    ]
    .concat();
    assert!(ids.iter().all(|id| after.contains(id)), "{ids:?} {after:?}");
    assert_eq!(cluster.metric(RECONNECTS).await, 0.0);
}
