//! What operators see: metrics that add up, probes, logs, traces.

use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::process::NodeProcess;
use crate::support::{on_both_brokers, until};

on_both_brokers!(counters_add_up);

async fn counters_add_up(cluster: Cluster) {
    let mut clients = Vec::new();
    for index in 0..10 {
        clients.push(cluster.client(index, "/sum").await);
    }
    for number in 0..30 {
        clients[number % 10].say("12345").await;
    }
    for client in &mut clients {
        for _ in 0..30 {
            client.hear().await;
        }
    }
    let nodes = cluster.nodes.len() as f64;
    let count = async |name: &str| cluster.metric(name).await;
    assert_eq!(
        count("echocast_connections{transport=\"websocket\"}").await,
        10.0
    );
    assert_eq!(
        count("echocast_connections_opened_total{transport=\"websocket\"}").await,
        10.0
    );
    assert_eq!(
        count("echocast_messages_received_total{transport=\"websocket\"}").await,
        30.0
    );
    assert_eq!(count("echocast_messages_relayed_total").await, 30.0 * nodes);
    assert_eq!(
        count("echocast_messages_delivered_total{transport=\"websocket\"}").await,
        300.0
    );
    assert_eq!(
        count("echocast_received_bytes_total{transport=\"websocket\"}").await,
        30.0 * 11.0
    );
    // Beside 7 bytes a message there are pings of 2, as many as came due.
    let sent = count("echocast_sent_bytes_total{transport=\"websocket\"}").await;
    assert!(
        sent >= 2100.0 && (sent - 2100.0) % 2.0 == 0.0 && sent < 2200.0,
        "{sent} bytes"
    );
    assert_eq!(count("echocast_channels").await, nodes);
    assert_eq!(count("echocast_inbox_depth").await, 0.0);
    assert_eq!(count("echocast_batch_messages_sum").await, 30.0);
    assert_eq!(
        count("echocast_relay_seconds_count").await,
        nodes * count("echocast_batch_messages_count").await
    );
    assert!(count("echocast_delivery_seconds_count").await > 0.0);
    assert!(count("echocast_publish_seconds_count").await > 0.0);
    assert!(count("echocast_feed_bytes").await > 0.0);
    assert_eq!(count("echocast_broker_up").await, nodes);
    for cause in ["slow_client", "broker", "malformed", "foreign", "shutdown"] {
        assert_eq!(
            count(&format!(
                "echocast_messages_lost_total{{cause=\"{cause}\"}}"
            ))
            .await,
            0.0
        );
    }
    for mut client in clients {
        client.close(1000, "").await;
    }
    until("all have left", async || {
        count("echocast_connections{transport=\"websocket\"}").await == 0.0
            && count("echocast_connections_closed_total{reason=\"client\",transport=\"websocket\"}")
                .await
                == 10.0
    })
    .await;
}

/// The names of the contract that apply so far, with the series a fresh node must already show.
const METRICS: [&str; 28] = [
    "echocast_connections{transport=\"websocket\"}",
    "echocast_connections_limit",
    "echocast_connections_opened_total{transport=\"websocket\"}",
    "echocast_connections_closed_total{reason=\"client\",transport=\"websocket\"}",
    "echocast_handshakes_refused_total{reason=\"origin\"}",
    "echocast_channels",
    "echocast_messages_received_total{transport=\"websocket\"}",
    "echocast_received_bytes_total{transport=\"websocket\"}",
    "echocast_messages_delivered_total{transport=\"websocket\"}",
    "echocast_sent_bytes_total{transport=\"websocket\"}",
    "echocast_messages_relayed_total",
    "echocast_messages_lost_total{cause=\"broker\"}",
    "echocast_slow_clients_total{policy=\"disconnect\"}",
    "echocast_slow_clients_total{policy=\"skip\"}",
    "echocast_inbox_depth",
    "echocast_batch_messages_count",
    "echocast_publish_seconds_count",
    "echocast_relay_seconds_count",
    "echocast_delivery_seconds_count",
    "echocast_broker_up",
    "echocast_broker_roundtrip_seconds_count",
    "echocast_broker_reconnects_total",
    "echocast_feed_bytes",
    "echocast_draining",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_shows_every_metric_with_its_help() {
    let node = TestNode::start(&[]).await;
    let (_, text) = node.get_ops("/metrics").await;
    for name in METRICS {
        assert!(
            text.lines()
                .any(|line| line.starts_with(&format!("{name} "))),
            "{name} is missing in\n{text}"
        );
    }
    let build = format!(
        "echocast_build_info{{commit=\"{}\",version=\"{}\"}} 1",
        echocast::COMMIT,
        echocast::VERSION
    );
    assert!(text.contains(&build), "{text}");
    let types = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .count();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("# HELP"))
            .count(),
        types
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ops_port_has_its_three_paths_and_nothing_else() {
    let node = TestNode::start(&[]).await;
    assert_eq!(node.get_ops("/livez").await, (200, "alive\n".into()));
    assert_eq!(
        node.get_ops("/readyz").await,
        (200, "ready, broker up\n".into())
    );
    for path in ["/", "/metrics/x", "/news", "/_/app.js"] {
        assert_eq!(node.get_ops(path).await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_logged_when_asked_for_and_only_then() {
    for (switch, logged) in [("on", true), ("off", false), ("auto", false)] {
        let node = NodeProcess::start(&["--log-messages", switch]).await;
        let mut client = crate::support::client::TestClient::connect(&node.url("/talk")).await;
        client.say("remember me").await;
        client.expect(["remember me"]).await;
        node.signal("TERM").await;
        let (_, log) = node.ended().await;
        let lines: Vec<serde_json::Value> = log
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let found = lines
            .iter()
            .any(|line| line["message"] == "received: remember me" && line["channel"] == "talk");
        assert_eq!(found, logged, "{switch}: {log:?}");
    }
}
