//! Histories in Redis: bounded in bytes, read no further than needed, and losses told exactly.

use ::redis::AsyncCommands;
use ::redis::aio::MultiplexedConnection;
use ::redis::streams::StreamRangeReply;
use echocast::broker::envelope::{Envelope, EnvelopeMessage};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::client::{TestClient, http};
use crate::support::cluster::Cluster;
use crate::support::events::{EventStream, post, publish};
use crate::support::v1::V1Client;

const HISTORY: &str = "echocast:{a}:history";
const KEYS: &str = "echocast:{a}:keys";
const META: &str = "echocast:{a}:meta";

/// The bound of most of these tests.
const BOUND: u64 = 256 * 1024;
const BOUNDED: &[&str] = &["--history-bytes", "256KiB", "--history", "100000"];

async fn connection(cluster: &Cluster) -> MultiplexedConnection {
    cluster.redis.as_ref().unwrap().connect().await
}

/// Bytes that Redis needs for everything it has of the channel.
async fn held(redis: &mut MultiplexedConnection) -> u64 {
    let mut sum = 0;
    for key in [HISTORY, KEYS, META] {
        let mut usage = ::redis::cmd("MEMORY");
        usage.arg("USAGE").arg(key).arg("SAMPLES").arg(0);
        sum += usage
            .query_async::<Option<u64>>(redis)
            .await
            .unwrap()
            .unwrap_or(0);
    }
    sum
}

async fn oldest(redis: &mut MultiplexedConnection) -> u64 {
    let entries: StreamRangeReply = redis.xrange_count(HISTORY, "-", "+", 1).await.unwrap();
    entries.ids[0]
        .id
        .split_once('-')
        .unwrap()
        .0
        .parse()
        .unwrap()
}

/// From now on [`calls`] counts from 0.
async fn forget_calls(cluster: &Cluster) {
    let redis = cluster.redis.as_ref().unwrap();
    redis.tell(&["CONFIG", "RESETSTAT"]).await;
}

/// How often a command was called, scripts included.
async fn calls(redis: &mut MultiplexedConnection, command: &str) -> u64 {
    let info: String = ::redis::cmd("INFO")
        .arg("commandstats")
        .query_async(redis)
        .await
        .unwrap();
    let prefix = format!("cmdstat_{command}:calls=");
    info.lines()
        .find_map(|line| line.strip_prefix(&prefix)?.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

async fn sent(redis: &mut MultiplexedConnection) -> u64 {
    let info: String = ::redis::cmd("INFO")
        .arg("stats")
        .query_async(redis)
        .await
        .unwrap();
    info.lines()
        .find_map(|line| {
            line.strip_prefix("total_net_output_bytes:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap()
}

/// Publishes a batch a message, with keys of the greatest length if `keyed`.
async fn publish_all(cluster: &Cluster, messages: usize, bytes: usize, keyed: bool) -> String {
    let mut id = String::new();
    for number in 0..messages {
        let body = format!("{number:0>bytes$}");
        let key = format!("{number:0>256}");
        let headers = if keyed {
            vec![("Idempotency-Key", key.as_str())]
        } else {
            Vec::new()
        };
        let (status, _, answer) =
            post(cluster.node(0).address, "/a", &headers, body.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id"].as_str().unwrap().clone_into(&mut id);
    }
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_keeps_no_more_bytes_than_it_may_whatever_its_messages_are() {
    for (messages, bytes, keyed) in [
        (30, 60_000, false),
        (5000, 1, false),
        (1500, 1, true),
        (1200, 500, true),
    ] {
        let cluster = Cluster::redis(1, BOUNDED).await;
        publish_all(&cluster, messages, bytes, keyed).await;
        let mut redis = connection(&cluster).await;
        let (held, kept) = (
            held(&mut redis).await,
            redis.xlen::<_, u64>(HISTORY).await.unwrap(),
        );
        let case = format!("{messages} of {bytes} bytes, keyed: {keyed}: {held} bytes for {kept}");
        assert!(held <= BOUND * 3 / 2, "{case}");
        assert!(held >= BOUND / 2, "no less is kept than may be: {case}");
        assert!(kept < messages as u64, "{case}");
        if keyed {
            let keys: u64 = redis.zcard(KEYS).await.unwrap();
            assert_eq!(keys, 2 * kept, "keys go with their messages: {case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_trimmed_by_bytes_is_told_to_the_last_message() {
    let cluster = Cluster::redis(2, BOUNDED).await;
    let first = publish(cluster.node(0).address, "/a", "first").await;
    let newest = publish_all(&cluster, 100, 10_000, false).await;
    let oldest = oldest(&mut connection(&cluster).await).await;
    assert!(oldest > 2, "there was something to trim");
    for node in 0..2 {
        let url = format!("{}?since={first}", cluster.node(node).url("/a"));
        let mut client = V1Client::connect(&url).await;
        assert_eq!(
            (&client.welcome["recovered"], &client.welcome["id"]),
            (&json!(false), &json!(newest))
        );
        assert_eq!(
            client.next().await,
            json!({ "event": "gap", "missed": oldest - 2 })
        );
        let epoch = first.split_once('-').unwrap().0;
        assert_eq!(client.next().await["id"], format!("{epoch}-{oldest}"));
        let mut stream = EventStream::open(cluster.node(node).address, "/a", Some(&first)).await;
        assert_eq!(
            stream.next().await.unwrap().data,
            json!({ "missed": oldest - 2 }).to_string()
        );
        let json = [("Accept", "application/json")];
        let (_, _, body) = http(cluster.node(node).address, "GET", "/a?last=100000", &json).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body["messages"].as_array().unwrap().len() as u64,
            102 - oldest
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_goes_with_its_message_when_that_is_trimmed_by_bytes() {
    let cluster = Cluster::redis(1, BOUNDED).await;
    let address = cluster.node(0).address;
    let key = [("Idempotency-Key", "k")];
    let (_, _, first) = post(address, "/a", &key, b"kept").await;
    publish_all(&cluster, 10, 10_000, false).await;
    assert_eq!(post(address, "/a", &key, b"other").await.0, 409);
    assert_eq!(post(address, "/a", &key, b"kept").await.2, first);
    publish_all(&cluster, 40, 10_000, false).await;
    let (status, _, other) = post(address, "/a", &key, b"other").await;
    assert!(status == 200 && other != first, "{status} {other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_begins_anew_counts_anew() {
    let cluster = Cluster::redis(1, BOUNDED).await;
    publish_all(&cluster, 50, 10_000, false).await;
    let mut redis = connection(&cluster).await;
    // As when it has expired.
    redis.del::<_, ()>(HISTORY).await.unwrap();
    publish_all(&cluster, 10, 10_000, false).await;
    assert_eq!(
        redis.xlen::<_, u64>(HISTORY).await.unwrap(),
        10,
        "all of it fits"
    );
    redis.del::<_, ()>(META).await.unwrap();
    publish_all(&cluster, 20, 10_000, false).await;
    assert_eq!(redis.xlen::<_, u64>(HISTORY).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_version_kept_is_read_and_then_trimmed() {
    let cluster = Cluster::redis(2, BOUNDED).await;
    let mut redis = connection(&cluster).await;
    let mut pipeline = ::redis::pipe();
    for offset in 1..=100u64 {
        let said = EnvelopeMessage {
            payload: format!("{offset:0>10000}").into(),
            key: format!("k{offset}"),
            ..EnvelopeMessage::default()
        };
        let messages = vec![said];
        let envelope = Envelope {
            epoch: 7,
            offset,
            publisher_id: 3,
            sequence: offset,
            messages,
            ..Envelope::default()
        };
        pipeline
            .cmd("XADD")
            .arg(HISTORY)
            .arg(format!("{offset}-0"))
            .arg("b")
            .arg(envelope.encode_payload());
        pipeline
            .cmd("ZADD")
            .arg(KEYS)
            .arg(offset)
            .arg(format!("k{offset}"));
    }
    pipeline
        .cmd("HSET")
        .arg(META)
        .arg("epoch")
        .arg(&7u64.to_le_bytes()[..])
        .arg("offset")
        .arg(100);
    pipeline.exec_async(&mut redis).await.unwrap();
    let mut client = V1Client::connect(&format!(
        "{}?since=0000000000000007-40",
        cluster.node(0).url("/a")
    ))
    .await;
    assert_eq!(client.welcome["recovered"], true);
    for offset in 41..=100 {
        assert_eq!(
            client.next().await["id"],
            format!("0000000000000007-{offset}")
        );
    }
    // It did not say to which message a key belongs.
    let (status, _, answer) = post(
        cluster.node(1).address,
        "/a",
        &[("Idempotency-Key", "k90")],
        b"other",
    )
    .await;
    assert_eq!(
        (status, answer.as_str()),
        (200, r#"{"id":"0000000000000007-90"}"#)
    );
    publish_all(&cluster, 60, 10_000, false).await;
    assert!(oldest(&mut redis).await > 100, "they went first");
    assert!(held(&mut redis).await <= BOUND * 3 / 2);
    assert_eq!(redis.zcard::<_, u64>(KEYS).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_only_what_comes_costs_no_reading() {
    let cluster = Cluster::redis(2, &[]).await;
    publish_all(&cluster, 50, 10_000, false).await;
    let mut redis = connection(&cluster).await;
    forget_calls(&cluster).await;
    let mut raw = cluster.client(1, "/a").await;
    let client = V1Client::connect(&cluster.node(1).url("/a")).await;
    EventStream::open(cluster.node(1).address, "/a", None)
        .await
        .next()
        .await;
    let (_, _, body) = http(
        cluster.node(1).address,
        "GET",
        "/a",
        &[("Accept", "application/json")],
    )
    .await;
    assert!(
        client.welcome["id"].as_str().unwrap().ends_with("-50"),
        "{}",
        client.welcome
    );
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["id"],
        client.welcome["id"]
    );
    raw.say("live").await;
    raw.expect(["live"]).await;
    for command in ["xrange", "xrevrange"] {
        assert_eq!(calls(&mut redis, command).await, 0, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_read_once_for_all_who_want_it() {
    let cluster = Cluster::redis(2, &[]).await;
    publish_all(&cluster, 400, 5000, false).await;
    let mut redis = connection(&cluster).await;
    let before = sent(&mut redis).await;
    let url = cluster.node(1).url("/a?last=400");
    let coming = (0..40).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut client = TestClient::connect(&url).await;
            for number in 0..400 {
                assert_eq!(client.hear().await, format!("{number:0>5000}"));
            }
        })
    });
    for client in join_all(coming).await {
        client.unwrap();
    }
    // Forty times it would be 80 MB.
    let read = sent(&mut redis).await - before;
    assert!(
        (2_000_000..2_500_000).contains(&read),
        "{read} bytes of a history of 2 MB"
    );
    // By now the node has it.
    forget_calls(&cluster).await;
    let mut late = TestClient::connect(&cluster.node(1).url("/a?last=1000")).await;
    assert_eq!(late.hear().await, format!("{:0>5000}", 0));
    let again = calls(&mut redis, "xrevrange").await;
    TestClient::connect(&cluster.node(1).url("/a?last=1000"))
        .await
        .hear()
        .await;
    assert_eq!(
        calls(&mut redis, "xrevrange").await,
        again,
        "nor does anybody look for what was never there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_a_history_is_read_than_is_wanted() {
    let cluster = Cluster::redis(2, &[]).await;
    publish_all(&cluster, 400, 5000, false).await;
    let mut redis = connection(&cluster).await;
    let before = sent(&mut redis).await;
    TestClient::connect(&cluster.node(1).url("/a?last=3"))
        .await
        .hear()
        .await;
    let read = sent(&mut redis).await - before;
    assert!(read < 50_000, "{read} bytes for three messages of 5,000");
}
