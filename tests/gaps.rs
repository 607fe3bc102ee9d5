//! What cannot be had any more is told where it is missing, and how much, if that can be known.

use ::redis::AsyncCommands;
use ::redis::streams::StreamRangeReply;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::events::publish;
use crate::support::node::TestNode;
use crate::support::v1::V1Client;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_history_no_longer_has_is_told_to_the_last_message() {
    let cluster = Cluster::redis(2, &["--history", "10"]).await;
    let first = publish(cluster.node(1).address, "/a", "0").await;
    for number in 1..101 {
        publish(cluster.node(1).address, "/a", &number.to_string()).await;
    }
    let mut client =
        V1Client::connect(&format!("{}?since={first}", cluster.node(0).url("/a"))).await;
    assert_eq!(client.welcome["recovered"], false);
    assert_eq!(client.next().await, json!({ "event": "gap", "missed": 90 }));
    let rest: Vec<String> = (91..101).map(|number| number.to_string()).collect();
    client.expect(rest.iter().map(String::as_str)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_began_anew_says_so() {
    let node = TestNode::start(&[]).await;
    let address = node.address.to_string();
    publish(node.address, "/a", "before").await;
    let last = publish(node.address, "/a", "last").await;
    node.stop().await;
    let node = TestNode::start_at(&address, &[]).await;
    node.wait_ready().await;
    publish(node.address, "/a", "after").await;
    let mut client = V1Client::connect(&format!("{}?since={last}", node.url("/a"))).await;
    assert_eq!(client.welcome["recovered"], false);
    assert_eq!(
        client.next().await,
        json!({ "event": "gap", "missed": null })
    );
    client.expect(["after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_the_history_are_told_where_they_are() {
    let cluster = Cluster::redis(1, &["--feed-bytes", "64KiB"]).await;
    let text = |number: u32| format!("{number} {}", "x".repeat(4000));
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(publish(cluster.node(0).address, "/a", &text(number)).await);
    }
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let two: StreamRangeReply = redis
        .xrange("echocast:{a}:history", "6", "7")
        .await
        .unwrap();
    let two: Vec<String> = two.ids.into_iter().map(|entry| entry.id).collect();
    let deleted: u64 = redis.xdel("echocast:{a}:history", &two).await.unwrap();
    assert_eq!(deleted, 2);
    let mut client =
        V1Client::connect(&format!("{}?since={}", cluster.node(0).url("/a"), ids[0])).await;
    client
        .expect(
            (1..5)
                .map(text)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .await;
    assert_eq!(client.next().await, json!({ "event": "gap", "missed": 2 }));
    client
        .expect(
            (7..60)
                .map(text)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_feed_is_not_called_recovered() {
    let cluster = Cluster::redis(1, &["--feed-bytes", "64KiB"]).await;
    let text = |number: u32| format!("{number} {}", "x".repeat(4000));
    let _stays = cluster.client(0, "/a").await;
    let first = publish(cluster.node(0).address, "/a", &text(0)).await;
    for number in 1..40 {
        publish(cluster.node(0).address, "/a", &text(number)).await;
    }
    // Begins like a batch and is none: lost.
    cluster
        .redis
        .as_ref()
        .unwrap()
        .publish("echocast:{a}", &[0xec, 1, 0xff])
        .await;
    publish(cluster.node(0).address, "/a", &text(40)).await;
    let mut client =
        V1Client::connect(&format!("{}?since={first}", cluster.node(0).url("/a"))).await;
    assert_eq!(client.welcome["recovered"], false);
    client
        .expect(
            (1..40)
                .map(text)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .await;
    assert_eq!(client.next().await, json!({ "event": "gap", "missed": 1 }));
    client.expect([text(40).as_str()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_history_a_place_is_a_gap_and_then_live() {
    let cluster = Cluster::redis(1, &["--history", "0"]).await;
    let mut raw = cluster.client(0, "/a").await;
    raw.say("before").await;
    raw.expect(["before"]).await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a?since=0-0")).await;
    assert_eq!(
        client.next().await,
        json!({ "event": "gap", "missed": null })
    );
    raw.say("live").await;
    let live = client.next().await;
    assert_eq!((&live["id"], &live["data"]), (&Value::Null, &json!("live")));
}
