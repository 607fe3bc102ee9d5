//! Several nodes over one Redis are one service.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::cluster::Cluster;
use crate::support::{soon, until};

const CLIENTS: usize = 1000;
const PUBLISHERS: usize = 4;
const EACH: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_of_three_nodes_hear_four_publishers_in_one_order() {
    let cluster = Cluster::redis(3, &[]).await;
    let mut sequences = JoinSet::new();
    let mut publishers = Vec::new();
    for index in 0..CLIENTS {
        let (sink, mut stream) = cluster.client(index, "/crowd").await.into_inner().split();
        if publishers.len() < PUBLISHERS {
            publishers.push(sink);
        }
        sequences.spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < PUBLISHERS * EACH {
                match stream.next().await.unwrap().unwrap() {
                    Message::Text(text) => heard.push(text.as_str().to_owned()),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            heard
        });
    }
    let mut speaking = JoinSet::new();
    for (publisher, mut sink) in publishers.into_iter().enumerate() {
        speaking.spawn(async move {
            for number in 0..EACH {
                sink.send(Message::text(format!("{publisher} {number}")))
                    .await
                    .unwrap();
                // Now and then a breath: batches of all sizes are what is tested.
                if number % 10 == publisher {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            sink
        });
    }
    let sinks = soon("all is said", speaking.join_all()).await;
    let mut sequences = soon("all is heard by all", sequences.join_all()).await;
    let first = sequences.pop().unwrap();
    assert!(
        sequences.iter().all(|other| *other == first),
        "one order for all"
    );
    for publisher in 0..PUBLISHERS {
        let own: Vec<&String> = first
            .iter()
            .filter(|text| text.starts_with(&format!("{publisher} ")))
            .collect();
        let said: Vec<String> = (0..EACH)
            .map(|number| format!("{publisher} {number}"))
            .collect();
        assert!(
            own.into_iter().eq(&said),
            "publisher {publisher}: each once, in order"
        );
    }
    assert_eq!(sinks.len(), PUBLISHERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_publishes_to_redis_is_heard_everywhere() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let (mut here, mut there) = (cluster.client(0, "/").await, cluster.client(1, "/").await);
    assert_eq!(redis.publish("echocast:{lobby}", b"hello").await, 2);
    redis.publish("echocast:{lobby}", &[0xff, 0x00]).await;
    redis.publish("echocast:{lobby}", b"").await;
    for client in [&mut here, &mut there] {
        assert_eq!(client.next().await, Message::text("hello"));
        assert_eq!(client.next().await, Message::binary(vec![0xff, 0x00]));
        assert_eq!(client.next().await, Message::text(""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_batch_is_counted_and_nobody_hears_it() {
    let cluster = Cluster::redis(1, &[]).await;
    let mut client = cluster.client(0, "/").await;
    let redis = cluster.redis.as_ref().unwrap();
    redis
        .publish(
            "echocast:{lobby}",
            &[&echocast::broker::envelope::MAGIC[..], b"junk"].concat(),
        )
        .await;
    redis.publish("echocast:{lobby}", b"after").await;
    client.expect(["after"]).await;
    assert_eq!(
        cluster
            .node(0)
            .metric("echocast_messages_lost_total{cause=\"malformed\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_subscribed_only_to_channels_with_clients_and_lingers() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    assert_eq!(redis.subscribers("echocast:{news}").await, 0);
    let here = cluster.client(0, "/news").await;
    assert_eq!(redis.subscribers("echocast:{news}").await, 1);
    let there = cluster.client(1, "/news").await;
    assert_eq!(redis.subscribers("echocast:{news}").await, 2);
    drop((here, there));
    until("clients are gone", async || {
        cluster
            .metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 0.0
    })
    .await;
    assert_eq!(redis.subscribers("echocast:{news}").await, 2, "they linger");
    until("and end", async || {
        redis.subscribers("echocast:{news}").await == 0
    })
    .await;
    assert_eq!(cluster.metric("echocast_channels").await, 0.0);
    // And the channel can come again.
    let (mut here, mut there) = (
        cluster.client(0, "/news").await,
        cluster.client(1, "/news").await,
    );
    here.say("again").await;
    there.expect(["again"]).await;
    here.expect(["again"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_clusters_on_one_redis_apart() {
    let redis = crate::support::redis::Redis::start().await;
    let url = redis.url();
    let one = crate::support::node::TestNode::start(&["--redis-url", &url]).await;
    let other =
        crate::support::node::TestNode::start(&["--redis-url", &url, "--redis-prefix", "staging"])
            .await;
    let mut here = crate::support::client::TestClient::connect(&one.url("/")).await;
    let mut there = crate::support::client::TestClient::connect(&other.url("/")).await;
    assert_eq!(redis.publish("staging:{lobby}", b"staged").await, 1);
    there.expect(["staged"]).await;
    assert!(here.hears_nothing_for(Duration::from_millis(100)).await);
}
