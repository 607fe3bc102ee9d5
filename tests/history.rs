//! History: newcomers get it, on any node, and whatever breaks between a node and Redis is repaired
//! from it.

use std::time::Duration;

use ::redis::AsyncCommands;
use echocast::broker::envelope::{Envelope, EnvelopeMessage};
use echocast::message::now_ns;
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::{on_both_brokers, soon, until};

on_both_brokers!(newcomers_get_the_newest_messages_they_ask_for);

const LOST: &str = "echocast_messages_lost_total{cause=\"broker\"}";
const RECOVERED: &str = "echocast_messages_recovered_total";

async fn say_and_hear(client: &mut TestClient, numbers: std::ops::Range<u32>) {
    for number in numbers {
        client.say(&number.to_string()).await;
        assert_eq!(client.hear().await, number.to_string());
    }
}

async fn newcomers_get_the_newest_messages_they_ask_for(cluster: Cluster) {
    let mut first = cluster.client(0, "/past").await;
    for number in 0..20 {
        first.say(&format!("{number}")).await;
    }
    first
        .expect(
            (0..20)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .await;
    let mut some = cluster.client(0, "/past?last=3").await;
    let mut more = cluster.client(0, "/past?last=1000&other=x").await;
    let mut none = cluster.client(0, "/past").await;
    first.say("live").await;
    some.expect(["17", "18", "19", "live"]).await;
    none.expect(["live"]).await;
    for number in 0..20 {
        assert_eq!(more.hear().await, number.to_string());
    }
    more.expect(["live"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_get_what_their_node_never_heard() {
    let cluster = Cluster::redis(2, &[]).await;
    let mut here = cluster.client(0, "/past").await;
    say_and_hear(&mut here, 0..200).await;
    let mut there = cluster.client(1, "/past?last=3").await;
    here.say("live").await;
    there.expect(["197", "198", "199", "live"]).await;
    assert_eq!(cluster.metric(RECOVERED).await, 0.0, "nobody had missed it");
    // What is replayed is old; that is no latency.
    assert_eq!(
        cluster.node(1).metric("echocast_relay_seconds_count").await,
        1.0
    );
    assert_eq!(
        cluster
            .node(1)
            .metric("echocast_delivery_seconds_count")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_outlives_its_nodes() {
    let redis = Redis::start().await;
    let url = redis.url();
    let node = TestNode::start(&["--redis-url", &url, "--drain-period", "0s"]).await;
    say_and_hear(&mut TestClient::connect(&node.url("/past")).await, 0..10).await;
    node.stop().await;
    let node = TestNode::start(&["--redis-url", &url]).await;
    let mut client = TestClient::connect(&node.url("/past?last=2")).await;
    client.expect(["8", "9"]).await;
    say_and_hear(&mut client, 10..12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_holds_what_the_contract_names_and_no_more_than_asked() {
    let cluster = Cluster::redis(1, &["--history", "50", "--history-ttl", "1m"]).await;
    let mut client = cluster.client(0, "/kept").await;
    say_and_hear(&mut client, 0..200).await;
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let kept: u64 = redis.xlen("echocast:{kept}:history").await.unwrap();
    assert_eq!(
        kept, 50,
        "one message a batch, because each was heard before the next was said"
    );
    let newest: ::redis::streams::StreamRangeReply = redis
        .xrevrange_count("echocast:{kept}:history", "+", "-", 1)
        .await
        .unwrap();
    assert!(
        newest.ids[0].id.starts_with("200-"),
        "a batch's id is its last offset: {}",
        newest.ids[0].id
    );
    let offset: u64 = redis.hget("echocast:{kept}:meta", "offset").await.unwrap();
    assert_eq!(offset, 200);
    let day = 24 * 60 * 60;
    for (key, least) in [
        ("echocast:{kept}:history", 30),
        ("echocast:{kept}:meta", day + 30),
    ] {
        let ttl: i64 = redis.ttl(key).await.unwrap();
        assert!((least..=least + 30).contains(&ttl), "{key} lives {ttl} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_history_redis_keeps_nothing() {
    let cluster = Cluster::redis(2, &["--history", "0"]).await;
    let (mut here, mut there) = (
        cluster.client(0, "/plain").await,
        cluster.client(1, "/plain").await,
    );
    say_and_hear(&mut here, 0..20).await;
    for number in 0..20 {
        assert_eq!(there.hear().await, number.to_string());
    }
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let keys: u64 = ::redis::cmd("DBSIZE")
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(keys, 0);
}

/// Speaks 200 times a second from each of two nodes, and listens on both, until told to stop.
struct Traffic {
    speakers: Vec<JoinHandle<u32>>,
    listeners: Vec<JoinHandle<Vec<String>>>,
    stop: tokio_util::sync::CancellationToken,
}

impl Traffic {
    async fn start(cluster: &Cluster) -> Self {
        let stop = tokio_util::sync::CancellationToken::new();
        let (mut speakers, mut listeners) = (Vec::new(), Vec::new());
        for node in 0..2 {
            let mut stream = cluster.client(node, "/traffic").await.into_inner();
            listeners.push(tokio::spawn(async move {
                let mut heard: Vec<String> = Vec::new();
                let mut ends = 0;
                while ends < 2 {
                    match stream.next().await.unwrap().unwrap() {
                        Message::Text(text) if text.starts_with("end") => ends += 1,
                        Message::Text(text) => heard.push(text.to_string()),
                        _ => {}
                    }
                }
                heard
            }));
        }
        for node in 0..2 {
            // Its own echoes are read and thrown away, or TCP would stop it.
            let (mut sink, mut echoes) =
                cluster.client(node, "/traffic").await.into_inner().split();
            tokio::spawn(async move { while let Some(Ok(_)) = echoes.next().await {} });
            let stop = stop.clone();
            speakers.push(tokio::spawn(async move {
                let mut said = 0;
                while !stop.is_cancelled() {
                    sink.send(Message::text(format!("{node} {said}")))
                        .await
                        .unwrap();
                    said += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sink.send(Message::text(format!("end {node}")))
                    .await
                    .unwrap();
                // Leaving now would be a close, after which nobody promises anything about the
                // socket.
                tokio::time::sleep(Duration::from_secs(1)).await;
                said
            }));
        }
        Self {
            speakers,
            listeners,
            stop,
        }
    }

    /// Ends it; returns how much was said on each node, and what was heard on each.
    async fn end(self) -> (Vec<u32>, Vec<Vec<String>>) {
        self.stop.cancel();
        let mut said = Vec::new();
        for speaker in self.speakers {
            said.push(soon("the last is said", speaker).await.unwrap());
        }
        let mut heard = Vec::new();
        for listener in self.listeners {
            heard.push(soon("everything is heard", listener).await.unwrap());
        }
        (said, heard)
    }

    /// Ends it: every listener heard everything once, in one order.
    async fn check(self) {
        let (said, heard) = self.end().await;
        for (node, said) in said.into_iter().enumerate() {
            let own: Vec<&String> = heard[0]
                .iter()
                .filter(|text| text.starts_with(&format!("{node} ")))
                .collect();
            let expected: Vec<String> =
                (0..said).map(|number| format!("{node} {number}")).collect();
            assert!(
                own.into_iter().eq(&expected),
                "what node {node}'s client said, each once, in order"
            );
        }
        let apart = heard[0]
            .iter()
            .zip(&heard[1])
            .position(|(one, other)| one != other);
        assert!(
            apart.is_none() && heard[0].len() == heard[1].len(),
            "one order, but apart from {apart:?} on"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_while_connections_are_killed_again_and_again() {
    connections_are_killed_again_and_again(Redis::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_over_redis_7() {
    connections_are_killed_again_and_again(Redis::start_image("redis", "7-bookworm").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_over_valkey() {
    connections_are_killed_again_and_again(Redis::start_image("valkey/valkey", "8-alpine").await)
        .await;
}

async fn connections_are_killed_again_and_again(redis: Redis) {
    let cluster = Cluster::over(redis, 2, &[]).await;
    let mut first = cluster.client(0, "/past").await;
    say_and_hear(&mut first, 0..20).await;
    cluster
        .client(1, "/past?last=3")
        .await
        .expect(["17", "18", "19"])
        .await;
    let traffic = Traffic::start(&cluster).await;
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    for round in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let kind = if round % 2 == 0 { "pubsub" } else { "normal" };
        let mut kill = ::redis::cmd("CLIENT");
        kill.arg("KILL")
            .arg("TYPE")
            .arg(kind)
            .exec_async(&mut redis)
            .await
            .unwrap();
    }
    traffic.check().await;
    assert_eq!(cluster.metric(LOST).await, 0.0);
    assert!(
        cluster.metric(RECOVERED).await > 0.0,
        "there was something to repair"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_while_redis_stands_still() {
    // All that is said meanwhile comes at once afterwards: more than the default of 1,000.
    let cluster = Cluster::redis(2, &["--history", "100000"]).await;
    let traffic = Traffic::start(&cluster).await;
    let redis = cluster.redis.as_ref().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    redis.pause().await;
    // Longer than everybody's patience.
    tokio::time::sleep(Duration::from_secs(7)).await;
    redis.unpause().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    traffic.check().await;
    assert_eq!(cluster.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_history_no_longer_has_is_counted_to_the_last_message() {
    let cluster = Cluster::redis(2, &["--history", "10"]).await;
    let traffic = Traffic::start(&cluster).await;
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    for _ in 0..5 {
        let mut kill = ::redis::cmd("CLIENT");
        kill.arg("KILL")
            .arg("TYPE")
            .arg("pubsub")
            .exec_async(&mut redis)
            .await
            .unwrap();
        // Until they are back, nothing that is said stays in the history.
        let until = tokio::time::Instant::now() + Duration::from_millis(300);
        while tokio::time::Instant::now() < until {
            let mut trim = ::redis::cmd("XTRIM");
            trim.arg("echocast:{traffic}:history")
                .arg("MAXLEN")
                .arg(0)
                .exec_async(&mut redis)
                .await
                .unwrap();
        }
    }
    let (said, heard) = traffic.end().await;
    let said: u32 = said.iter().sum();
    for (node, heard) in cluster.nodes.iter().zip(heard) {
        let lost = node.metric(LOST).await;
        assert_eq!(
            heard.len() as f64 + lost,
            f64::from(said),
            "{lost} counted as lost"
        );
    }
    assert!(
        cluster.metric(LOST).await > 0.0,
        "there was something to lose"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_are_loaded_again() {
    let cluster = Cluster::redis(2, &[]).await;
    let traffic = Traffic::start(&cluster).await;
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ::redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec_async(&mut redis)
            .await
            .unwrap();
    }
    traffic.check().await;
    assert_eq!(cluster.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_begins_a_new_history_and_everybody_goes_on() {
    let cluster = Cluster::redis(2, &[]).await;
    let (mut here, mut there) = (
        cluster.client(0, "/new").await,
        cluster.client(1, "/new").await,
    );
    say_and_hear(&mut here, 0..10).await;
    for number in 0..10 {
        assert_eq!(there.hear().await, number.to_string());
    }
    let redis = cluster.redis.as_ref().unwrap();
    redis.kill().await;
    here.say("10").await;
    redis.restart().await;
    here.expect(["10"]).await;
    there.expect(["10"]).await;
    say_and_hear(&mut here, 11..20).await;
    for number in 11..20 {
        assert_eq!(there.hear().await, number.to_string());
    }
    assert_eq!(
        cluster.metric(LOST).await,
        0.0,
        "nothing was said while nobody could hear it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_is_gone_before_anybody_reads_it_stops_nobody() {
    let cluster = Cluster::redis(2, &["--history-ttl", "1ms"]).await;
    let (mut here, mut there) = (
        cluster.client(0, "/short").await,
        cluster.client(1, "/short").await,
    );
    for number in 0..50 {
        here.say(&number.to_string()).await;
        assert_eq!(here.hear().await, number.to_string());
        assert_eq!(there.hear().await, number.to_string());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(cluster.metric(LOST).await, 0.0);
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let info: String = ::redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut redis)
        .await
        .unwrap();
    let reads = info.lines().find_map(|line| {
        line.strip_prefix("cmdstat_xrange:calls=")?
            .split(',')
            .next()?
            .parse()
            .ok()
    });
    assert!(
        reads.is_none_or(|reads: u32| reads < 1000),
        "{reads:?} reads of the history for 50 messages"
    );
}

/// What nodes of a channel's past said there last, as they would publish it.
const PUBLISH: &str = "
redis.call('HSET', KEYS[1], 'offset', ARGV[2], 'n:' .. ARGV[3], ARGV[4])
redis.call('XADD', KEYS[2], ARGV[2] .. '-0', 'b', ARGV[1])
redis.call('PUBLISH', KEYS[3], ARGV[1])";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_on_which_thousands_of_nodes_have_published_keeps_its_history() {
    let cluster = Cluster::redis(1, &["--history", "5000"]).await;
    let mut client = cluster.client(0, "/crowd").await;
    say_and_hear(&mut client, 0..1).await;
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let epoch: Vec<u8> = redis.hget("echocast:{crowd}:meta", "epoch").await.unwrap();
    let now = now_ns();
    let mut pipeline = ::redis::pipe();
    for offset in 2..1030 {
        let said = EnvelopeMessage {
            payload: offset.to_string().into(),
            ..EnvelopeMessage::default()
        };
        let envelope = Envelope {
            epoch: u64::from_le_bytes(epoch.clone().try_into().unwrap()),
            offset,
            publisher_id: offset,
            sequence: 1,
            published_ns: now,
            messages: vec![said],
            ..Envelope::default()
        };
        pipeline.cmd("EVAL").arg(PUBLISH).arg(3);
        pipeline
            .arg("echocast:{crowd}:meta")
            .arg("echocast:{crowd}:history")
            .arg("echocast:{crowd}");
        pipeline
            .arg(envelope.encode_payload())
            .arg(offset)
            .arg(format!("{offset:016x}"));
        pipeline.arg(format!("{:020} {} {offset}", 1, now / 1_000_000_000));
    }
    pipeline.exec_async(&mut redis).await.unwrap();
    for offset in 2..1030 {
        assert_eq!(client.hear().await, offset.to_string());
    }
    // What was heard from so many that not all are remembered is not taken for what another server
    // has given out.
    let node = cluster.node(0);
    ::redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("pubsub")
        .exec_async(&mut redis)
        .await
        .unwrap();
    until("the node is back", async || {
        node.metric("echocast_broker_reconnects_total").await == 1.0
    })
    .await;
    say_and_hear(&mut client, 1030..1032).await;
    let after: Vec<u8> = redis.hget("echocast:{crowd}:meta", "epoch").await.unwrap();
    assert_eq!(after, epoch, "the same history");
    // All of them said something lately: Redis does not look through them whenever one more comes.
    // When it has looked it writes down how many there may be before it does again.
    let mut looks = Vec::new();
    for _ in 0..5 {
        let node = TestNode::start(&["--redis-url", &cluster.redis.as_ref().unwrap().url()]).await;
        say_and_hear(&mut TestClient::connect(&node.url("/crowd")).await, 0..1).await;
        let many: u64 = redis.hget("echocast:{crowd}:meta", "many").await.unwrap();
        looks.push(many);
    }
    assert!(
        looks[0] > 1200 && looks.iter().all(|many| *many == looks[0]),
        "{looks:?}"
    );
}
