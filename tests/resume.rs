//! Clients that come back get what they missed, once and in order, on any node, or are told what is
//! missing.

use std::time::Duration;

use echocast::broker::envelope::{Envelope, EnvelopeMessage};
use serde_json::{Value, json};

use crate::support::client::{TestClient, http};
use crate::support::cluster::Cluster;
use crate::support::events::{EventStream, post, publish};
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::v1::V1Client;
use crate::support::{on_both_brokers, until};

on_both_brokers!(
    a_client_that_comes_back_gets_exactly_what_it_missed_on_any_node,
    an_event_stream_goes_on_after_its_last_event,
    a_client_that_has_heard_nothing_yet_misses_nothing_either,
    an_unknown_place_is_told_as_a_gap_before_everything_that_is_kept,
    what_is_asked_for_and_what_comes_meanwhile_have_no_border,
    a_key_is_kept_once_and_answered_with_the_first_id,
    what_is_no_message_is_answered_and_costs_no_connection,
    binary_is_base64_in_json_and_back,
    who_does_not_want_its_own_messages_hears_all_others,
    the_newest_messages_come_first_on_every_transport,
    a_message_keeps_the_time_at_which_it_was_published,
    a_drain_is_announced_to_whoever_can_be_told,
    a_place_that_nobody_has_reached_is_a_gap,
);

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn publish_all(cluster: &Cluster, path: &str, range: std::ops::Range<u32>) -> String {
    let mut id = String::new();
    for text in texts(range) {
        id = publish(cluster.node(1).address, path, &text).await;
    }
    id
}

fn refs(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().map(String::as_str)
}

async fn a_client_that_comes_back_gets_exactly_what_it_missed_on_any_node(cluster: Cluster) {
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    assert_eq!(client.welcome["channel"], "a");
    assert_eq!(client.welcome["recovered"], false, "nothing was asked for");
    publish_all(&cluster, "/a", 0..5).await;
    let last = client.expect(refs(&texts(0..5))).await;
    drop(client);
    publish_all(&cluster, "/a", 5..25).await;
    for node in 0..2 {
        let url = format!("{}?since={last}", cluster.node(node).url("/a"));
        let mut back = V1Client::connect(&url).await;
        assert_eq!(back.welcome["recovered"], true);
        back.expect(refs(&texts(5..25))).await;
        // A raw client can name a place as well.
        TestClient::connect(&url)
            .await
            .expect(refs(&texts(5..25)))
            .await;
    }
}

async fn an_event_stream_goes_on_after_its_last_event(cluster: Cluster) {
    let mut stream = EventStream::open(cluster.node(0).address, "/a", None).await;
    assert_eq!(
        stream.next().await.unwrap().data,
        "",
        "where to go on if nothing is heard"
    );
    publish_all(&cluster, "/a", 0..5).await;
    let last = stream.expect(refs(&texts(0..5))).await;
    drop(stream);
    publish_all(&cluster, "/a", 5..25).await;
    let mut back = EventStream::open(cluster.node(1).address, "/a?since=0-0", Some(&last)).await;
    back.expect(refs(&texts(5..25))).await;
    publish(cluster.node(1).address, "/a", "several\nlines\n").await;
    back.expect(["several\nlines\n"]).await;
}

async fn a_client_that_has_heard_nothing_yet_misses_nothing_either(cluster: Cluster) {
    let client = V1Client::connect(&cluster.node(0).url("/quiet")).await;
    let place = client.welcome["id"].as_str().unwrap().to_owned();
    let mut stream = EventStream::open(cluster.node(0).address, "/quiet", None).await;
    assert_eq!(stream.next().await.unwrap().id, place);
    drop((client, stream));
    publish_all(&cluster, "/quiet", 0..3).await;
    let mut back =
        V1Client::connect(&format!("{}?since={place}", cluster.node(1).url("/quiet"))).await;
    assert_eq!(back.welcome["recovered"], true);
    back.expect(refs(&texts(0..3))).await;
}

async fn an_unknown_place_is_told_as_a_gap_before_everything_that_is_kept(cluster: Cluster) {
    publish_all(&cluster, "/a", 0..3).await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a?since=0123456789abcdef-2")).await;
    assert_eq!(client.welcome["recovered"], false);
    assert_eq!(
        client.next().await,
        json!({ "event": "gap", "missed": null })
    );
    client.expect(["0", "1", "2"]).await;
    // Event sources cannot forget an id that another service gave them.
    for place in ["0123456789abcdef-2", "nonsense"] {
        let mut stream = EventStream::open(cluster.node(1).address, "/a", Some(place)).await;
        let gap = stream.next().await.unwrap();
        assert_eq!(
            (gap.kind.as_str(), gap.data.as_str()),
            ("gap", r#"{"missed":null}"#)
        );
        stream.expect(["0", "1", "2"]).await;
    }
}

async fn what_is_asked_for_and_what_comes_meanwhile_have_no_border(cluster: Cluster) {
    let place = publish_all(&cluster, "/a", 0..1).await;
    let publishing = async {
        publish_all(&cluster, "/a", 1..200).await;
    };
    let coming = async {
        for round in 0..10 {
            let url = format!("{}?since={place}", cluster.node(round).url("/a"));
            let mut client = V1Client::connect(&url).await;
            assert_eq!(client.welcome["recovered"], true);
            client.expect(refs(&texts(1..200))).await;
        }
    };
    tokio::join!(publishing, coming);
}

async fn a_key_is_kept_once_and_answered_with_the_first_id(cluster: Cluster) {
    let mut listener = cluster.client(0, "/a").await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    client
        .send(json!({ "data": "once", "ref": "1", "key": "k" }))
        .await;
    let first = client.answer("1").await;
    client
        .send(json!({ "data": "once", "ref": "2", "key": "k" }))
        .await;
    assert_eq!(client.answer("2").await["id"], first["id"]);
    let (status, _, body) = post(
        cluster.node(1).address,
        "/a",
        &[("Idempotency-Key", "k")],
        b"once",
    )
    .await;
    assert_eq!(
        (
            status,
            serde_json::from_str::<Value>(&body).unwrap()["id"].clone()
        ),
        (200, first["id"].clone())
    );
    client.say("other").await;
    listener.expect(["once", "other"]).await;
}

async fn what_is_no_message_is_answered_and_costs_no_connection(cluster: Cluster) {
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    client.client.say("no json").await;
    let answer = client.next().await;
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("not a message in JSON"),
        "{answer}"
    );
    assert_eq!(answer["ref"], Value::Null);
    let large = "x".repeat(64 * 1024 + 1);
    for (frame, why) in [
        (json!({ "ref": "r" }), "either data or base64"),
        (
            json!({ "ref": "r", "data": "a", "key": "k".repeat(257) }),
            "a key has 1 to 256 bytes",
        ),
        (
            json!({ "ref": "r", "data": large }),
            "longer than 65536 bytes",
        ),
    ] {
        client.send(frame).await;
        let answer = client.next().await;
        assert!(answer["error"].as_str().unwrap().contains(why), "{answer}");
        assert_eq!(answer["ref"], "r");
    }
    let largest = "\n".repeat(64 * 1024);
    client.send(json!({ "data": largest })).await;
    assert_eq!(client.next().await["data"], largest);
}

async fn binary_is_base64_in_json_and_back(cluster: Cluster) {
    let mut raw = cluster.client(0, "/a").await;
    let mut client = V1Client::connect(&cluster.node(1).url("/a")).await;
    client.send(json!({ "base64": "AP8=" })).await;
    assert_eq!(raw.next().await.into_data(), vec![0, 255]);
    assert_eq!(client.next().await["base64"], "AP8=");
    let binary = [("Echocast-Kind", "binary")];
    assert_eq!(
        post(cluster.node(0).address, "/a", &binary, b"text")
            .await
            .0,
        200
    );
    assert!(raw.next().await.is_binary());
    assert_eq!(client.next().await["base64"], "dGV4dA==");
}

async fn who_does_not_want_its_own_messages_hears_all_others(cluster: Cluster) {
    let mut one = cluster.client(0, "/a?echo=false").await;
    let mut other = V1Client::connect(&cluster.node(0).url("/a?echo=false")).await;
    let mut all = cluster.client(1, "/a").await;
    for round in 0..50 {
        one.say(&format!("one {round}")).await;
        other
            .send(json!({ "data": format!("other {round}") }))
            .await;
    }
    one.say("one, the end").await;
    other.send(json!({ "data": "other, the end" })).await;
    let (mut from_one, mut from_other) = (Vec::new(), Vec::new());
    while from_one.len() + from_other.len() < 102 {
        let text = all.hear().await;
        if text.starts_with("one") {
            from_one.push(text)
        } else {
            from_other.push(text)
        }
    }
    one.expect(refs(&from_other)).await;
    assert!(one.hears_nothing_for(Duration::from_millis(100)).await);
    other.expect(refs(&from_one)).await;
    assert!(
        other
            .client
            .hears_nothing_for(Duration::from_millis(100))
            .await
    );
    let mut again = V1Client::connect(&cluster.node(1).url("/a?last=102&echo=false")).await;
    let mut heard = Vec::new();
    for _ in 0..102 {
        heard.push(again.next().await["data"].as_str().unwrap().to_owned());
    }
    let all_of_both = from_one
        .iter()
        .chain(&from_other)
        .all(|text| heard.contains(text));
    assert!(all_of_both, "what another connection said is not its own");
}

async fn the_newest_messages_come_first_on_every_transport(cluster: Cluster) {
    let newest = publish_all(&cluster, "/a", 0..10).await;
    let node = cluster.node(0);
    // What one node acknowledges another may have a moment later.
    V1Client::connect(&format!("{}?since=0-0", node.url("/a")))
        .await
        .expect(refs(&texts(0..10)))
        .await;
    V1Client::connect(&node.url("/a?last=3"))
        .await
        .expect(["7", "8", "9"])
        .await;
    EventStream::open(node.address, "/a?last=3", None)
        .await
        .expect(["7", "8", "9"])
        .await;
    let json = [("Accept", "application/json")];
    let (status, _, body) = http(node.address, "GET", "/a?last=3", &json).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["id"], &body["channel"]),
        (200, &json!(newest), &json!("a"))
    );
    let heard: Vec<&str> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["data"].as_str().unwrap())
        .collect();
    assert_eq!(heard, ["7", "8", "9"]);
    let fourth = body["messages"][0]["id"].as_str().unwrap();
    let (_, _, body) = http(node.address, "GET", &format!("/a?since={fourth}"), &json).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["recovered"], &body["missed"], &body["more"]),
        (&json!(true), &json!(0), &json!(false))
    );
    assert_eq!(body["messages"].as_array().unwrap().len(), 2);
}

async fn a_message_keeps_the_time_at_which_it_was_published(cluster: Cluster) {
    let now_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let before = now_ms();
    let mut here = V1Client::connect(&cluster.node(0).url("/a")).await;
    here.send(json!({ "data": "text" })).await;
    here.send(json!({ "base64": "AP8=" })).await;
    let (text, binary) = (here.next().await, here.next().await);
    let times = [&text, &binary].map(|message| message["time"].as_u64().unwrap());
    assert!(
        before <= times[0] && times[0] <= times[1] && times[1] <= now_ms(),
        "{times:?}"
    );
    // Later, and on every node, it is still the same.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for node in &cluster.nodes {
        let mut late = V1Client::connect(&node.url("/a?last=2")).await;
        assert_eq!(
            [late.next().await, late.next().await],
            [text.clone(), binary.clone()]
        );
        let (_, _, body) = http(
            node.address,
            "GET",
            "/a?last=2",
            &[("Accept", "application/json")],
        )
        .await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["messages"], json!([text, binary]));
    }
}

async fn a_drain_is_announced_to_whoever_can_be_told(mut cluster: Cluster) {
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    let mut stream = EventStream::open(cluster.node(0).address, "/a", None).await;
    stream.next().await;
    cluster.nodes[0].begin_stop();
    let drain = client.next().await;
    assert_eq!(drain["event"], "drain");
    assert!(
        (1..=2000).contains(&drain["retry_ms"].as_u64().unwrap()),
        "{drain}"
    );
    assert_eq!(client.client.closed().await.unwrap().0, 1012);
    assert!(stream.next().await.unwrap().retry.parse::<u64>().is_ok());
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_longer_fits_the_feed_is_read_from_redis() {
    // Each node holds a tenth of what the history holds.
    let cluster = Cluster::redis(2, &["--feed-bytes", "64KiB"]).await;
    let text = |number: u32| format!("{number} {}", "x".repeat(1000));
    let mut publisher = V1Client::connect(&cluster.node(0).url("/a?echo=false")).await;
    let first = publisher.say(&text(0)).await;
    for number in 1..600 {
        publisher.say(&text(number)).await;
    }
    let expected: Vec<String> = (1..600).map(text).collect();
    for node in 0..2 {
        let url = format!("{}?since={first}", cluster.node(node).url("/a"));
        let mut client = V1Client::connect(&url).await;
        assert_eq!(client.welcome["recovered"], true);
        client.expect(refs(&expected)).await;
        TestClient::connect(&format!("{}?last=599", cluster.node(node).url("/a")))
            .await
            .expect(refs(&expected))
            .await;
        EventStream::open(cluster.node(node).address, "/a", Some(&first))
            .await
            .expect(refs(&expected))
            .await;
    }
    let json = [("Accept", "application/json")];
    let (_, _, body) = http(
        cluster.node(1).address,
        "GET",
        &format!("/a?since={first}"),
        &json,
    )
    .await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["recovered"], &body["more"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(body["messages"].as_array().unwrap().len(), 599);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_history_nothing_has_an_id_and_acknowledgements_still_come() {
    let cluster = Cluster::redis(2, &["--history", "0"]).await;
    let mut client = V1Client::connect(&cluster.node(0).url("/a")).await;
    let mut there = V1Client::connect(&cluster.node(1).url("/a")).await;
    assert_eq!(client.welcome["id"], Value::Null);
    client.send(json!({ "data": "x", "ref": "1" })).await;
    assert_eq!(client.answer("1").await, json!({ "ack": "1", "id": null }));
    let heard = there.next().await;
    assert_eq!((&heard["id"], &heard["data"]), (&Value::Null, &json!("x")));
    assert_eq!(
        post(cluster.node(0).address, "/a", &[], b"y").await.2,
        r#"{"id":null}"#
    );
    let heard = there.next().await;
    assert_eq!((&heard["id"], &heard["data"]), (&Value::Null, &json!("y")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_another_node_has_reached_is_waited_for() {
    let cluster = Cluster::redis(1, &[]).await;
    let node = cluster.node(0);
    let mut listener = cluster.client(0, "/a").await;
    let id = publish(node.address, "/a", "x").await;
    listener.expect(["x"]).await;
    // Another node's message, which Redis holds, and whose delivery to this node takes long.
    let (epoch, offset) = id.split_once('-').unwrap();
    let said = EnvelopeMessage {
        payload: "y".into(),
        ..EnvelopeMessage::default()
    };
    let envelope = Envelope {
        epoch: u64::from_str_radix(epoch, 16).unwrap(),
        offset: 2,
        publisher_id: 7,
        sequence: 1,
        messages: vec![said],
        ..Envelope::default()
    };
    assert_eq!(offset, "1");
    let redis = cluster.redis.as_ref().unwrap();
    redis
        .tell(&["HSET", "echocast:{a}:meta", "offset", "2"])
        .await;
    let asked = asked_for_the_newest(redis).await;
    let next = format!("{epoch}-2");
    let url = format!("{}?since={next}", node.url("/a"));
    let coming = tokio::spawn(async move { V1Client::connect(&url).await });
    until("the node has asked", async || {
        asked_for_the_newest(redis).await > asked
    })
    .await;
    redis
        .publish("echocast:{a}", &envelope.encode_payload())
        .await;
    let mut client = coming.await.unwrap();
    assert_eq!(
        (&client.welcome["id"], &client.welcome["recovered"]),
        (&json!(next), &json!(true))
    );
    publish(node.address, "/a", "z").await;
    client.expect(["z"]).await;
}

/// How often Redis was asked where a history ends.
async fn asked_for_the_newest(redis: &Redis) -> u64 {
    let mut connection = redis.connect().await;
    let info: String = ::redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let calls = info.lines().find_map(|line| {
        line.strip_prefix("cmdstat_hmget:calls=")?
            .split(',')
            .next()?
            .parse()
            .ok()
    });
    calls.unwrap_or(0)
}

async fn a_place_that_nobody_has_reached_is_a_gap(cluster: Cluster) {
    let id = publish_all(&cluster, "/a", 0..3).await;
    let epoch = id.split_once('-').unwrap().0;
    for node in 0..2 {
        let url = format!("{}?since={epoch}-999999999", cluster.node(node).url("/a"));
        let mut client = V1Client::connect(&url).await;
        assert_eq!(client.welcome["recovered"], false);
        assert_eq!(
            client.next().await,
            json!({ "event": "gap", "missed": null })
        );
        client.expect(["0", "1", "2"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_its_history_keeps_nobody_from_theirs() {
    let cluster = Cluster::redis(1, &["--feed-bytes", "64KiB", "--history-bytes", "16MiB"]).await;
    let address = cluster.node(0).address;
    let first = publish(address, "/a", "first").await;
    let text = "x".repeat(60_000);
    for _ in 0..200 {
        publish(address, "/a", &text).await;
    }
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(EventStream::open(address, "/a", Some(&first)).await);
    }
    let mut client =
        TestClient::connect(&format!("{}?since={first}", cluster.node(0).url("/a"))).await;
    for _ in 0..200 {
        assert_eq!(client.hear().await.len(), text.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_stream_is_told_when_to_come_back_however_long_the_drain() {
    let mut node = TestNode::start(&["--drain-period", "12s", "--shutdown-grace", "30s"]).await;
    let mut streams = Vec::new();
    for _ in 0..120 {
        let mut stream = EventStream::open(node.address, "/a", None).await;
        stream.next().await;
        streams.push(stream);
    }
    node.begin_stop();
    for mut stream in streams {
        assert!(!stream.next().await.expect("it is told").retry.is_empty());
        assert_eq!(stream.next().await, None);
    }
    node.ended().await;
}
