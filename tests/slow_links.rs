//! Clients behind slow links: they get all of a history while they are pinged and answered, and
//! none that takes bytes is taken for dead.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::support::client::{RawClient, TestClient, masked};
use crate::support::cluster::Cluster;
use crate::support::events::EventStream;
use crate::support::link::{Link, Pace};
use crate::support::{on_both_brokers, soon, until};

on_both_brokers!(a_client_that_closes_while_history_comes_is_answered_with_its_code);

const MESSAGES: usize = 1000;

/// Shorter than what 64 kbit/s take for the data that lies before a ping.
const PINGS: [&str; 4] = ["--ping-interval", "2s", "--ping-timeout", "2s"];

const KBIT_64: Pace = Pace {
    bytes_per_second: 8_000.0,
    delay: Duration::ZERO,
};
const MBIT_1: Pace = Pace {
    bytes_per_second: 125_000.0,
    delay: Duration::ZERO,
};
const MS_300: Pace = Pace {
    bytes_per_second: 10_000_000.0,
    delay: Duration::from_millis(300),
};

/// One node with the embedded broker, and two over Redis whose feeds are so small that they replay
/// from there.
async fn clusters() -> [Cluster; 2] {
    let small_feeds = [&PINGS[..], &["--feed-bytes", "32KiB"]].concat();
    [
        Cluster::embedded(&PINGS).await,
        Cluster::redis(2, &small_feeds).await,
    ]
}

fn text(number: usize, size: usize) -> String {
    format!("{number:0>size$}")
}

/// Publishes messages of this size until the history has enough of them.
async fn fill(cluster: &Cluster, path: &str, size: usize) {
    let mut client = cluster.client(0, path).await;
    for first in (0..MESSAGES).step_by(10) {
        for number in first..first + 10 {
            client.say(&text(number, size)).await;
        }
        for number in first..first + 10 {
            client.expect([text(number, size).as_str()]).await;
        }
    }
}

/// A client behind this link gets the whole history, and meanwhile pings and its pong.
async fn replays(cluster: &Cluster, pace: Pace, size: usize, fewest_pings: usize) {
    fill(cluster, "/a", size).await;
    let link = Link::start(cluster.node(1).address, pace).await;
    let mut socket = TestClient::connect(&link.url("/a?last=1000"))
        .await
        .into_inner();
    let (mut next, mut pings, mut ponged_at) = (0, 0, None);
    while next < MESSAGES {
        match soon("something", socket.next())
            .await
            .expect("the connection stays")
            .unwrap()
        {
            Message::Text(heard) => {
                assert_eq!(heard.as_str(), text(next, size));
                if next == 0 {
                    socket.send(Message::Ping("mine".into())).await.unwrap();
                }
                next += 1;
            }
            Message::Ping(_) => pings += 1,
            Message::Pong(payload) if payload == "mine" => ponged_at = Some(next),
            other => panic!("{other:?} after {next} messages"),
        }
    }
    assert!(
        ponged_at.is_some_and(|at| at < MESSAGES),
        "its pong came after {ponged_at:?} messages"
    );
    assert!(pings >= fewest_pings, "{pings} pings");
}

/// The same on both brokers.
async fn replays_on_both_brokers(pace: Pace, size: usize, fewest_pings: usize) {
    let [embedded, redis] = clusters().await;
    tokio::join!(
        replays(&embedded, pace, size, fewest_pings),
        replays(&redis, pace, size, fewest_pings)
    );
}

/// Publishes messages of this size, each once the one before has come back.
async fn say_one_by_one(speaker: &mut TestClient, count: usize, size: usize) {
    for number in 0..count {
        speaker.say(&text(number, size)).await;
        speaker.expect([text(number, size).as_str()]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_of_history_come_through_64_kbit_a_second() {
    replays_on_both_brokers(KBIT_64, 100, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_of_history_come_through_1_mbit_a_second() {
    replays_on_both_brokers(MBIT_1, 1000, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_of_history_come_through_a_link_of_300_ms() {
    replays_on_both_brokers(MS_300, 1000, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_gets_a_thousand_messages_through_64_kbit_a_second() {
    async fn replays(cluster: &Cluster) {
        fill(cluster, "/a", 60).await;
        let link = Link::start(cluster.node(1).address, KBIT_64).await;
        let mut stream = EventStream::open(link.address, "/a?last=1000", None).await;
        for number in 0..MESSAGES {
            stream.expect([text(number, 60).as_str()]).await;
        }
    }
    // These feeds hold the history also as events: a feed that is full with these gives up its
    // oldest messages.
    let redis = Cluster::redis(2, &["--feed-bytes", "512KiB"]).await;
    let embedded = Cluster::embedded(&[]).await;
    tokio::join!(replays(&embedded), replays(&redis));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_a_burst_slowly_is_not_taken_for_dead() {
    let cluster = Cluster::embedded(&PINGS).await;
    let link = Link::start(cluster.node(0).address, MBIT_1).await;
    let mut slow = TestClient::connect(&link.url("/a")).await;
    let mut speaker = cluster.client(0, "/a").await;
    // 8 seconds of the link.
    say_one_by_one(&mut speaker, MESSAGES, 1000).await;
    for number in 0..MESSAGES {
        slow.expect([text(number, 1000).as_str()]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_closed_although_its_machine_answers_probes() {
    let cluster = Cluster::embedded(&["--ping-interval", "1s", "--ping-timeout", "1s"]).await;
    let node = cluster.node(0);
    let _deaf = RawClient::websocket(node.address, "/a").await;
    let mut speaker = cluster.client(0, "/a").await;
    // More than the buffers between them hold, and less than the feed.
    say_one_by_one(&mut speaker, 800, 8000).await;
    let closed =
        "echocast_connections_closed_total{reason=\"ping_timeout\",transport=\"websocket\"}";
    until("it is taken for dead", async || {
        node.metric(closed).await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_heard_by_others_while_history_comes_to_it() {
    for cluster in clusters().await {
        fill(&cluster, "/a", 1000).await;
        let mut listener = cluster.client(0, "/a").await;
        let link = Link::start(cluster.node(1).address, MBIT_1).await;
        let mut slow = TestClient::connect(&link.url("/a?last=1000")).await;
        slow.expect([text(0, 1000).as_str()]).await;
        let begun = Instant::now();
        slow.say("hello").await;
        listener.expect(["hello"]).await;
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "not only after all of it: {:?}",
            begun.elapsed()
        );
        for number in 1..MESSAGES {
            slow.expect([text(number, 1000).as_str()]).await;
        }
        slow.expect(["hello"]).await;
    }
}

async fn a_client_that_closes_while_history_comes_is_answered_with_its_code(cluster: Cluster) {
    fill(&cluster, "/a", 5000).await;
    let mut listener = cluster.client(1, "/a").await;
    let mut client = RawClient::websocket(cluster.node(1).address, "/a?last=1000").await;
    client
        .send(
            &[
                masked(0x81, b"last words"),
                masked(0x88, &4000u16.to_be_bytes()),
            ]
            .concat(),
        )
        .await;
    let close = loop {
        match client.read_frame().await {
            (0x81, payload) => assert!(payload.len() == 5000 || payload == b"last words"),
            (first, payload) => break (first, payload),
        }
    };
    assert_eq!(close, (0x88, 4000u16.to_be_bytes().to_vec()));
    listener.expect(["last words"]).await;
}
