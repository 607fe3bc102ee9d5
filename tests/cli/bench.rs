//! `echocast bench`: what it says of our nodes, what it notices of servers that do not tell
//! everybody the same, and whom it does not load.

mod dishonest;

use serde_json::Value;

use self::dishonest::{DishonestServer, Fault};
use super::{USAGE, run};
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::screen::Screen;
use crate::support::{on_both_brokers, until};

/// Runs it with `--json`; returns the exit code and what it printed.
async fn bench(urls: &[&str], flags: &str) -> (Option<i32>, Value) {
    let arguments: Vec<&str> = ["bench", "--json"]
        .into_iter()
        .chain(flags.split(' '))
        .chain(urls.to_vec())
        .collect();
    let ended = run(&arguments).await;
    assert!(
        ended.output.len() == 1 && ended.errors.is_empty(),
        "{ended:?}"
    );
    (ended.code, serde_json::from_str(&ended.output[0]).unwrap())
}

on_both_brokers!(
    everybody_hears_everything_from_all_publishers_on_all_nodes,
    a_rate_is_kept,
    deflated_messages_are_checked_as_plain_ones_are,
);

async fn everybody_hears_everything_from_all_publishers_on_all_nodes(cluster: Cluster) {
    let urls = [cluster.node(0).url("/load"), cluster.node(1).url("/load")];
    // The nodes live in this process.
    let flags = format!(
        "-s 7 -p 3 -w 4 --size 300 -d 300ms --warmup 100ms --silent 1 --pid {}",
        std::process::id()
    );
    let (code, report) = bench(&[&urls[0], &urls[1]], &flags).await;
    assert_eq!(
        (code, &report["ok"]),
        (Some(0), &Value::Bool(true)),
        "{report}"
    );
    for (name, expected) in [
        ("lost", 0),
        ("duplicated", 0),
        ("out_of_order", 0),
        ("damaged", 0),
        ("orders", 1),
    ] {
        assert_eq!(report[name], expected, "{name}: {report}");
    }
    let published = report["published"].as_u64().unwrap();
    assert!(published > 12, "{report}");
    assert_eq!(report["delivered"], published * 10);
    // The nodes say the same.
    let received = cluster
        .metric(r#"echocast_messages_received_total{transport="websocket"}"#)
        .await;
    assert_eq!(received, published as f64);
    let counted: u64 = report["histogram"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["count"].as_u64().unwrap())
        .sum();
    assert!(counted > 0 && counted <= published * 10, "{report}");
    let [p50, p99, p999, max] =
        ["p50", "p99", "p999", "max"].map(|name| report["latency_us"][name].as_u64().unwrap());
    assert!(
        0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= max,
        "{report}"
    );
    assert!(
        report["server"]["memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{report}"
    );
}

async fn a_rate_is_kept(cluster: Cluster) {
    let urls = [cluster.node(0).url("/load"), cluster.node(1).url("/load")];
    let (code, report) = bench(&[&urls[0], &urls[1]], "-s 2 -p 2 -r 200 -d 1s --warmup 0s").await;
    assert_eq!(code, Some(0), "{report}");
    // Its end is noticed at the next turn, and what is due until then is published.
    let published = report["published"].as_f64().unwrap();
    assert!((100.0..=210.0).contains(&published), "{report}");
    assert_eq!(
        (&report["rate"], &report["window"]),
        (&Value::from(200.0), &Value::Null)
    );
}

async fn deflated_messages_are_checked_as_plain_ones_are(cluster: Cluster) {
    let urls = [cluster.node(0).url("/load"), cluster.node(1).url("/load")];
    let (code, report) = bench(
        &[&urls[0], &urls[1]],
        "-s 5 -p 2 --size 1000 -d 300ms --warmup 0s --deflate",
    )
    .await;
    assert_eq!((code, &report["foreign"]), (Some(0), &0.into()), "{report}");
    let plain = report["deliveries_per_second"].as_f64().unwrap() * 1000.0;
    let received = report["bytes_per_second"].as_f64().unwrap();
    assert!(0.0 < received && received < 0.8 * plain, "{report}");
}

#[tokio::test]
async fn a_server_that_does_not_deflate_is_not_measured_as_one_that_does() {
    let server = DishonestServer::start(Fault::None).await;
    let ended = run(&["bench", "--deflate", &server.url]).await;
    assert_eq!((ended.code, ended.output.len()), (Some(1), 0), "{ended:?}");
    assert!(
        ended.errors.contains("the server does not deflate"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_tell_everybody_the_same_is_caught() {
    let checks = [
        (Fault::Loses, "lost", 1),
        (Fault::Repeats, "duplicated", 1),
        (Fault::Swaps, "out_of_order", 1),
        (Fault::Interleaves, "orders", 2),
        (Fault::Damages, "damaged", 1),
    ];
    let checks = checks.map(|(fault, name, expected)| async move {
        let server = DishonestServer::start(fault).await;
        let (code, report) = bench(&[&server.url], "-s 3 -p 2 -r 400 -d 300ms --warmup 0s").await;
        assert_eq!(
            (code, &report["ok"]),
            (Some(1), &Value::Bool(false)),
            "{fault:?}: {report}"
        );
        for other in ["lost", "duplicated", "out_of_order", "damaged"] {
            // What is damaged has not arrived, either.
            let expected = if other == name || (name, other) == ("damaged", "lost") {
                1
            } else {
                0
            };
            assert_eq!(report[other], expected, "{fault:?}: {report}");
        }
        assert!(
            name != "orders" || report["orders"] == expected,
            "{fault:?}: {report}"
        );
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn an_honest_server_of_another_kind_passes() {
    let server = DishonestServer::start(Fault::None).await;
    let (code, report) = bench(
        &[&server.url],
        "-s 3 -p 2 -d 200ms --warmup 0s --size 65536",
    )
    .await;
    assert_eq!(
        (code, &report["lost"], &report["orders"]),
        (Some(0), &0.into(), &1.into()),
        "{report}"
    );
}

#[tokio::test]
async fn a_connection_that_ends_is_told_with_its_reason() {
    let server = DishonestServer::start(Fault::HangsUp).await;
    let (code, report) = bench(&[&server.url], "-s 3 -p 2 -r 400 -d 300ms --warmup 0s").await;
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(
        report["ended"]["closed by the server with 1011"], 1,
        "{report}"
    );
    assert!(report["lost"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test]
async fn what_others_say_on_the_channel_is_passed_over_and_told() {
    let node = TestNode::start(&[]).await;
    let mut other = crate::support::client::TestClient::connect(&node.url("/load")).await;
    // Of the same length as the load's messages, and of others.
    let texts = [String::new(), "x".repeat(64), "y".repeat(60_000)];
    for text in &texts {
        other.say(text).await;
    }
    other.expect(texts.iter().map(String::as_str)).await;
    let (code, report) = bench(
        &[&node.url("/load?last=3")],
        "-s 3 -p 1 -d 200ms --warmup 0s",
    )
    .await;
    assert_eq!(
        (code, &report["foreign"]),
        (Some(0), &12.into()),
        "{report}"
    );
    assert_eq!(
        report["notes"][0],
        "12 messages on the channel were not of this load"
    );
}

#[tokio::test]
async fn people_get_a_table_also_of_a_load_they_stop() {
    let node = TestNode::start(&[]).await;
    let load = Program::start(echocast(&[
        "bench",
        &node.url("/load"),
        "-s",
        "3",
        "-r",
        "100",
        "-d",
        "1m",
    ]));
    let received = r#"echocast_messages_received_total{transport="websocket"}"#;
    until("it publishes", async || node.metric(received).await > 0.0).await;
    load.signal("INT").await;
    let ended = load.ended().await;
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    assert_eq!(
        ended.output.last().unwrap(),
        "every connection received every message once, in one order"
    );
    assert!(
        ended
            .output
            .iter()
            .any(|line| line.starts_with("note: the load ended after ")),
        "{ended:?}"
    );
    for name in [
        "deliveries",
        "published",
        "checked",
        "lost",
        "duplicated",
        "out of order",
        "orders",
    ] {
        assert!(
            ended
                .output
                .iter()
                .any(|line| line.trim_start().starts_with(name)),
            "{name}: {ended:?}"
        );
    }
}

#[tokio::test]
async fn on_a_terminal_a_bar_tells_how_it_goes_and_is_gone_at_the_end() {
    let node = TestNode::start(&[]).await;
    let load = [
        "bench",
        &node.url("/load"),
        "-s",
        "3",
        "-r",
        "100",
        "-d",
        "500ms",
        "--warmup",
        "1s",
    ];
    let screen = Screen::start(&load).await;
    screen.shows("warming up █…").await;
    screen.shows("measuring  █…").await;
    screen.shows("exit code 0").await;
    screen
        .ends_with(&[
            "every connection received every message once, in one order",
            "exit code 0",
        ])
        .await;
    assert!(
        !screen
            .rows()
            .await
            .iter()
            .any(|row| row.starts_with("measuring") || row.starts_with("draining"))
    );
}

#[tokio::test]
async fn without_publishers_connections_are_only_held() {
    let node = TestNode::start(&[]).await;
    let (code, report) = bench(&[&node.url("/load")], "-s 50 -p 0 -d 100ms --warmup 0s").await;
    assert_eq!(
        (code, &report["published"]),
        (Some(0), &0.into()),
        "{report}"
    );
    assert_eq!(
        node.metric(r#"echocast_connections_opened_total{transport="websocket"}"#)
            .await,
        50.0
    );
}

#[tokio::test]
async fn other_peoples_servers_are_not_loaded() {
    let ended = run(&["bench", "ws://192.0.2.1/load", "--size", "1"]).await;
    assert_eq!((ended.code, ended.output.len()), (USAGE, 0), "{ended:?}");
    assert!(
        ended
            .errors
            .contains("'ws://192.0.2.1/load' (192.0.2.1) is not on this machine"),
        "{ended:?}"
    );
    assert!(ended.errors.contains("--i-own-this-server"), "{ended:?}");
    assert!(
        ended.errors.contains("--size 1: from 40 bytes"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let node = TestNode::start(&["--max-connections", "2"]).await;
    let ended = run(&["bench", &node.url("/load")]).await;
    assert_eq!((ended.code, ended.output.len()), (Some(1), 0), "{ended:?}");
    assert!(
        ended
            .errors
            .contains("the server answered 429 Too Many Requests: "),
        "{ended:?}"
    );
}
