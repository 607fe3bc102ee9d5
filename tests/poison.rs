//! A channel whose keys in Redis somebody else has written to, or which this node's user must not
//! touch, breaks itself at most: all others go on, and nothing is asked or logged without end.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::events::{post, publish};
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

const LOST: &str = "echocast_messages_lost_total{cause=\"broker\"}";
const RECONNECTS: &str = "echocast_broker_reconnects_total";

async fn set(redis: &mut MultiplexedConnection, channel: &str, field: &str, value: &[u8]) {
    let key = format!("echocast:{{{channel}}}:meta");
    ::redis::cmd("HSET")
        .arg(key)
        .arg(field)
        .arg(value)
        .exec_async(redis)
        .await
        .unwrap();
}

/// Ends all subscriptions, and waits until there are others.
async fn subscribe_anew(cluster: &Cluster) {
    let before = cluster.metric(RECONNECTS).await;
    cluster
        .redis
        .as_ref()
        .unwrap()
        .tell(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .await;
    let all = cluster.nodes.len() as f64;
    until("all subscribe again", async || {
        cluster.metric(RECONNECTS).await >= before + all
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_cannot_be_begin_a_history_anew() {
    let cluster = Cluster::redis(1, &[]).await;
    let node = cluster.node(0);
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let huge = "18446744073709551615";
    let offsets = [
        huge,
        "18446744073709551614",
        "9007199254740992",
        "1000000000000000",
        "999999999999999",
    ];
    let numbers = offsets
        .into_iter()
        .chain(["-1", "inf", "nan", "1e3", " 1", "1.5", "abc", ""]);
    let mut cases: Vec<(&str, Vec<u8>)> = numbers.map(|number| ("offset", number.into())).collect();
    cases.extend([
        ("epoch", vec![]),
        ("epoch", vec![1; 7]),
        ("epoch", vec![0; 8]),
        ("epoch", b"junk and more".to_vec()),
    ]);
    for (number, (field, value)) in cases.into_iter().enumerate() {
        let (fresh, used) = (format!("fresh{number}"), format!("used{number}"));
        set(&mut redis, &fresh, "epoch", &[1; 8]).await;
        set(&mut redis, &fresh, "offset", b"5").await;
        let mut client = V1Client::connect(&node.url(&format!("/{used}"))).await;
        publish(node.address, &format!("/{used}"), "before").await;
        client.expect(["before"]).await;
        for channel in [&fresh, &used] {
            set(&mut redis, channel, field, &value).await;
            for text in ["x0", "x1"] {
                publish(node.address, &format!("/{channel}"), text).await;
            }
            if channel == &used {
                client.expect(["x0", "x1"]).await;
            }
            let last = format!("/{channel}?last=2");
            V1Client::connect(&node.url(&last))
                .await
                .expect(["x0", "x1"])
                .await;
        }
    }
    assert_eq!(cluster.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_fields_that_make_no_sense_stop_no_channel() {
    let cluster = Cluster::redis(1, &[]).await;
    let node = cluster.node(0);
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let mut client = V1Client::connect(&node.url("/a")).await;
    for (number, field) in [
        "bytes",
        "floor",
        "jumped",
        "many",
        "torn",
        "n:0000000000000000",
    ]
    .into_iter()
    .enumerate()
    {
        for value in ["abc", "", "inf", "-1", "18446744073709551615"] {
            set(&mut redis, "a", field, value.as_bytes()).await;
            let text = format!("{number} {value}");
            publish(node.address, "/a", &text).await;
            client.expect([&*text]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_beyond_all_others_begins_a_history_anew() {
    let cluster = Cluster::redis(2, &[]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    for (round, id) in ["18446744073709551615-18446744073709551615", "1000-1", "0-1"]
        .into_iter()
        .enumerate()
    {
        publish(cluster.node(1).address, "/a", &format!("{round} before")).await;
        if id == "0-1" {
            redis.tell(&["DEL", "echocast:{a}:history"]).await;
        }
        redis
            .tell(&[
                "XADD",
                "echocast:{a}:history",
                id,
                "several",
                "fields",
                "of",
                "others",
            ])
            .await;
        publish(cluster.node(0).address, "/a", &format!("{round} after")).await;
        client
            .expect([&*format!("{round} before"), &*format!("{round} after")])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_nobody_can_read_are_told_as_a_gap_once_and_counted_once() {
    for count in [5, 63, 64, 300] {
        let cluster = Cluster::redis(1, &[]).await;
        let node = cluster.node(0);
        let redis = cluster.redis.as_ref().unwrap();
        let mut client = V1Client::connect(&node.url("/a")).await;
        publish(node.address, "/a", "before").await;
        client.expect(["before"]).await;
        for number in 0..count {
            let id = format!("{}-{number}", 2 + number);
            let fields: &[&str] = if number % 2 == 0 {
                &["b", "\u{1}junk"]
            } else {
                &["b", "x", "c", "y"]
            };
            redis
                .tell(&[&["XADD", "echocast:{a}:history", &id][..], fields].concat())
                .await;
        }
        set(
            &mut redis.connect().await,
            "a",
            "offset",
            (count + 1).to_string().as_bytes(),
        )
        .await;
        subscribe_anew(&cluster).await;
        assert_eq!(
            client.next().await,
            json!({ "event": "gap", "missed": count })
        );
        publish(node.address, "/a", "after").await;
        client.expect(["after"]).await;
        assert_eq!(cluster.metric(LOST).await, f64::from(count));
        V1Client::connect(&node.url("/a?last=1000")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_keep_no_other_channel_waiting() {
    const BAD: usize = 100;
    let cluster = Cluster::redis(1, &[]).await;
    let node = cluster.node(0);
    let mut redis = cluster.redis.as_ref().unwrap().connect().await;
    let mut live = V1Client::connect(&node.url("/live")).await;
    let mut clients = Vec::new();
    for number in 0..BAD {
        let kind = ["history", "meta", "keys"][number % 3];
        let key = format!("echocast:{{bad{number}}}:{kind}");
        ::redis::cmd("SET")
            .arg(key)
            .arg("hello")
            .exec_async(&mut redis)
            .await
            .unwrap();
        clients.push(V1Client::connect(&node.url(&format!("/bad{number}"))).await);
    }
    subscribe_anew(&cluster).await;
    publish(node.address, "/live", "one").await;
    live.expect(["one"]).await;
    // What is published needs the key: it is refused in words, or the key goes because a history
    // begins.
    for (number, status) in [(0, 200), (1, 503), (2, 200)] {
        let answer = post(node.address, &format!("/bad{number}"), &[], b"x").await;
        assert_eq!(answer.0, status, "{answer:?}");
        assert!(
            status == 200 || answer.2.contains("wrong kind"),
            "{answer:?}"
        );
    }
    clients[2].expect(["x"]).await;
    let set = ["SET", "echocast:{bad2}:history", "hello"];
    cluster.redis.as_ref().unwrap().tell(&set).await;
    let answer = post(node.address, "/bad2", &[], b"x").await;
    assert!(
        answer.0 == 503 && answer.2.contains("wrong kind"),
        "{answer:?}"
    );
    let newcomer = V1Client::connect(&node.url("/newcomer")).await;
    drop(newcomer);
    assert_eq!(node.metric("echocast_broker_up").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_its_user_must_not_touch_takes_no_other_one_away() {
    for history in ["1000", "0"] {
        let redis = Redis::start().await;
        let words = "on >secret resetkeys ~echocast:{public* ~echocast:{half* ~echocast:{echocast:probe:* \
                     resetchannels &echocast:{public* &echocast:probe:* &echocast:{echocast:probe:* +@all";
        redis
            .tell(
                &[
                    &["ACL", "SETUSER", "some"][..],
                    &words.split_whitespace().collect::<Vec<_>>(),
                ]
                .concat(),
            )
            .await;
        let url = redis.url().replace("redis://", "redis://some:secret@");
        let node = TestNode::start(&["--redis-url", &url, "--history", history]).await;
        let mut public = V1Client::connect(&node.url("/public")).await;
        let refused = tokio::spawn({
            let urls = ["/private", "/half"].map(|path| node.url(path));
            async move {
                for url in urls {
                    let (status, why) = TestClient::try_connect(&url, &[]).await.err().unwrap();
                    assert!(status == 503 && why.contains("broker"), "{status} {why}");
                }
            }
        });
        for number in 0..10 {
            // The second must not be kept either: nobody could hear it.
            for path in ["/private", "/half"] {
                let (status, _, why) = post(node.address, path, &[], b"x").await;
                assert!(
                    status == 503 && why.contains("permissions"),
                    "{status} {why}"
                );
            }
            let text = number.to_string();
            assert_eq!(
                post(node.address, "/public", &[], text.as_bytes()).await.0,
                200
            );
            assert_eq!(public.next().await["data"], json!(text));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        refused.await.unwrap();
        let kept: u64 = ::redis::cmd("EXISTS")
            .arg("echocast:{half}:history")
            .query_async(&mut redis.connect().await)
            .await
            .unwrap();
        assert_eq!(kept, 0);
        assert_eq!(
            (
                node.metric(RECONNECTS).await,
                node.metric("echocast_broker_up").await
            ),
            (0.0, 1.0)
        );
        V1Client::connect(&node.url("/public2")).await;
        // When it may, it is let in.
        redis
            .tell(&["ACL", "SETUSER", "some", "allchannels", "allkeys"])
            .await;
        until("it is let in", async || {
            TestClient::try_connect(&node.url("/private"), &[])
                .await
                .is_ok()
        })
        .await;
        assert_eq!(post(node.address, "/private", &[], b"x").await.0, 200);
    }
}
