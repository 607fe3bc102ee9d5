//! Redis decides which history a channel has: batches of others are dropped and counted, and a node
//! goes over to another history when Redis does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use echocast::broker::envelope::{Envelope, EnvelopeMessage};
use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::events::publish;
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

const FOREIGN: &str = "echocast_messages_lost_total{cause=\"foreign\"}";
const LOST: &str = "echocast_messages_lost_total{cause=\"broker\"}";

/// Longer than a node goes without asking Redis about batches that do not fit.
const DOUBT_PAUSE: Duration = Duration::from_millis(1200);

/// A batch that nobody has published.
fn forged(epoch: u64, offset: u64, messages: usize) -> Vec<u8> {
    let messages = vec![
        EnvelopeMessage {
            payload: "forged".into(),
            ..EnvelopeMessage::default()
        };
        messages
    ];
    Envelope {
        epoch,
        offset,
        publisher_id: 7,
        sequence: 1,
        messages,
        ..Envelope::default()
    }
    .encode_payload()
}

async fn epoch(redis: &mut MultiplexedConnection, channel: &str) -> u64 {
    let key = format!("echocast:{{{channel}}}:meta");
    let bytes: Vec<u8> = ::redis::cmd("HGET")
        .arg(key)
        .arg("epoch")
        .query_async(redis)
        .await
        .unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// How often Redis has been asked this.
async fn calls(redis: &mut MultiplexedConnection, command: &str) -> u64 {
    let stats: String = ::redis::cmd("INFO")
        .arg("commandstats")
        .query_async(redis)
        .await
        .unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_redis_does_not_hold_are_dropped_and_counted_and_silence_nobody() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut here = V1Client::connect(&cluster.node(0).url("/a")).await;
    let mut there = cluster.client(1, "/a").await;
    publish(cluster.node(0).address, "/a", "first").await;
    here.expect(["first"]).await;
    there.expect(["first"]).await;
    let epoch = epoch(&mut redis.connect().await, "a").await;
    let kinds = [
        (epoch ^ 5, 1),
        (epoch ^ 5, 500),
        (epoch ^ 6, 2),
        (0, 7),
        (epoch, 50),
    ];
    for (round, (epoch, offset)) in kinds.into_iter().enumerate() {
        redis
            .publish("echocast:{a}", &forged(epoch, offset, 3))
            .await;
        for number in 0..2 {
            let text = format!("{round} {number}");
            publish(cluster.node(number).address, "/a", &text).await;
            here.expect([&*text]).await;
            there.expect([&*text]).await;
        }
        if round % 2 == 0 {
            // Asked for, and dropped without that.
            tokio::time::sleep(DOUBT_PAUSE).await;
        }
    }
    assert_eq!(cluster.metric(FOREIGN).await, 2.0 * 3.0 * 5.0);
    assert_eq!(cluster.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_them_holds_nobody_up_and_redis_is_hardly_asked() {
    let cluster = Cluster::redis(1, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    publish(cluster.node(0).address, "/a", "first").await;
    client.expect(["first"]).await;
    let mut connection = redis.connect().await;
    let epoch = epoch(&mut connection, "a").await;
    let before = (
        calls(&mut connection, "hmget").await,
        calls(&mut connection, "evalsha").await,
    );
    let began = std::time::Instant::now();
    // Without a pause: some always come while Redis is being asked about others.
    let (stop, stopped) = (Arc::new(AtomicBool::new(false)), redis.connect().await);
    let flood = tokio::spawn({
        let (stop, mut connection) = (stop.clone(), stopped);
        async move {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                for offset in 1..100 {
                    let mut command = ::redis::cmd("PUBLISH");
                    command
                        .arg("echocast:{a}")
                        .arg(forged(epoch ^ offset, offset, 1));
                    command.exec_async(&mut connection).await.unwrap();
                    sent += 1;
                }
            }
            sent
        }
    });
    for round in 0..20 {
        let text = round.to_string();
        publish(cluster.node(0).address, "/a", &text).await;
        client.expect([&*text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Relaxed);
    let sent = flood.await.unwrap();
    let after = (
        calls(&mut connection, "hmget").await,
        calls(&mut connection, "evalsha").await,
    );
    let asked = (after.0 - before.0) - (after.1 - before.1);
    // A few times a second, whatever comes: when it is told, and when that is over.
    assert!(
        asked <= 12 * (began.elapsed().as_secs() + 1),
        "{asked} times in {:?}",
        began.elapsed()
    );
    until("every one is counted", async || {
        cluster.metric(FOREIGN).await == f64::from(sent)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_right_after_a_foreign_one_and_is_recovered_is_not_foreign() {
    let cluster = Cluster::redis(1, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let node = cluster.node(0);
    let mut client = V1Client::connect(&node.url("/a")).await;
    publish(node.address, "/a", "first").await;
    client.expect(["first"]).await;
    let epoch = epoch(&mut redis.connect().await, "a").await;
    redis
        .publish("echocast:{a}", &forged(epoch ^ 5, 1, 3))
        .await;
    until("it is judged", async || node.metric(FOREIGN).await == 3.0).await;
    // Too soon for the node to ask again: it drops the first batch of the new history.
    redis.tell(&["FLUSHALL"]).await;
    publish(node.address, "/a", "second").await;
    // Redis has another history, and the node did not see how it began: that may be said.
    let mut next = client.next().await;
    if next["event"] == json!("gap") {
        assert_eq!(next["missed"], json!(null));
        next = client.next().await;
    }
    assert_eq!(next["data"], json!("second"));
    publish(node.address, "/a", "third").await;
    client.expect(["third"]).await;
    assert_eq!(node.metric(FOREIGN).await, 3.0);
    assert_eq!(node.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_begins_anew_and_nobody_is_told_of_a_loss() {
    let cluster = Cluster::redis(2, &[]).await;
    let mut clients = [
        V1Client::connect(&cluster.node(0).url("/a")).await,
        V1Client::connect(&cluster.node(1).url("/a")).await,
    ];
    for (round, number) in [(0, 1), (1, 2), (2, 3)] {
        for step in 0..3 {
            let text = format!("{number} {step}");
            publish(cluster.node(round + step).address, "/a", &text).await;
            for client in &mut clients {
                client.expect([&*text]).await;
            }
        }
        cluster.redis.as_ref().unwrap().tell(&["FLUSHALL"]).await;
    }
    assert_eq!(
        cluster.metric(LOST).await + cluster.metric(FOREIGN).await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_swapped_to_and_fro_silence_nobody() {
    let mut cluster = Cluster::redis(2, &[]).await;
    let url = cluster.redis.as_ref().unwrap().url();
    let other = TestNode::start(&["--redis-url", &format!("{url}/1")]).await;
    for number in 0..50 {
        publish(other.address, "/a", &format!("other {number}")).await;
    }
    other.stop().await;
    let mut clients = [
        V1Client::connect(&cluster.node(0).url("/a")).await,
        V1Client::connect(&cluster.node(1).url("/a")).await,
    ];
    for round in 0..4 {
        for step in 0..3 {
            let text = format!("{round} {step}");
            publish(cluster.node(round + step).address, "/a", &text).await;
            for client in &mut clients {
                client.expect([&*text]).await;
            }
        }
        cluster
            .redis
            .as_mut()
            .unwrap()
            .tell(&["SWAPDB", "0", "1"])
            .await;
    }
    assert_eq!(
        cluster.metric(LOST).await + cluster.metric(FOREIGN).await,
        0.0
    );
}

/// What is kept under a key, to be put back.
async fn dump(redis: &mut MultiplexedConnection, key: &str) -> Vec<u8> {
    ::redis::cmd("DUMP")
        .arg(key)
        .query_async(redis)
        .await
        .unwrap()
}

async fn restore(redis: &mut MultiplexedConnection, key: &str, dumped: &[u8]) {
    let mut restore = ::redis::cmd("RESTORE");
    restore
        .arg(key)
        .arg(0)
        .arg(dumped)
        .arg("REPLACE")
        .exec_async(redis)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_restored_over_a_redis_in_use_silence_nobody() {
    let (meta, stream) = ("echocast:{a}:meta", "echocast:{a}:history");
    for keys in [&[meta, stream][..], &[meta], &[stream]] {
        for flushed in [false, true] {
            let cluster = Cluster::redis(2, &[]).await;
            let mut redis = cluster.redis.as_ref().unwrap().connect().await;
            let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
            let mut saved = Vec::new();
            for number in 0..6 {
                if number == 3 {
                    for key in keys {
                        saved.push((*key, dump(&mut redis, key).await));
                    }
                }
                let text = number.to_string();
                publish(cluster.node(0).address, "/a", &text).await;
                client.expect([&*text]).await;
            }
            if flushed {
                cluster.redis.as_ref().unwrap().tell(&["FLUSHALL"]).await;
                publish(cluster.node(0).address, "/a", "flushed").await;
                client.expect(["flushed"]).await;
            }
            for (key, dumped) in &saved {
                restore(&mut redis, key, dumped).await;
            }
            // A node that has heard nothing of it, and the one that has.
            for index in [1, 0, 1, 0] {
                publish(cluster.node(index).address, "/a", &format!("after {index}")).await;
            }
            // Offsets may have been given out again for that. Then the history ends, and whoever
            // listens is told of a gap.
            let mut came = Vec::new();
            while let Ok(next) = tokio::time::timeout(DOUBT_PAUSE, client.next()).await {
                came.push(next);
            }
            publish(cluster.node(0).address, "/a", "end").await;
            while came.last().is_none_or(|last| last["data"] != json!("end")) {
                came.push(client.next().await);
            }
            let heard = came
                .iter()
                .filter_map(|next| next["data"].as_str())
                .filter(|text| text.starts_with("after"));
            let told = came.iter().any(|next| next["event"] == json!("gap"));
            assert!(heard.count() == 4 || told, "{keys:?} {flushed}: {came:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_in_two_databases_of_one_redis_do_not_meet() {
    let redis = Redis::start().await;
    let mut nodes = Vec::new();
    for (database, history) in [
        (0, "1000"),
        (0, "1000"),
        (1, "1000"),
        (1, "1000"),
        (2, "0"),
        (2, "0"),
    ] {
        let url = format!("{}/{database}", redis.url());
        nodes.push(TestNode::start(&["--redis-url", &url, "--history", history]).await);
    }
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(V1Client::connect(&node.url("/a")).await);
    }
    for round in 0..10 {
        for (index, node) in nodes.iter().enumerate() {
            let text = format!("{round} of {}", index / 2);
            let mut visitor =
                crate::support::client::TestClient::connect(&node.url("/a?echo=false")).await;
            visitor.say(&text).await;
            for client in &mut clients[index / 2 * 2..][..2] {
                assert_eq!(client.next().await["data"], json!(text));
            }
        }
    }
    redis.publish("echocast:db1:{a}", b"by hand").await;
    for client in &mut clients[2..4] {
        assert_eq!(client.next().await["data"], json!("by hand"));
    }
    for node in &nodes {
        assert_eq!(node.metric(FOREIGN).await + node.metric(LOST).await, 0.0);
    }
    until("its own names only", async || {
        redis.subscribers("echocast:db2:{a}").await == 2
    })
    .await;
}
