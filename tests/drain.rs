//! The end of a node: in order, within its time, without losing what was said.

use std::time::{Duration, Instant};

use echocast::broker::{Broker, Link};
use echocast::config::Config;
use echocast::hub::{Change, Intake};
use echocast::node::Node;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::process::NodeProcess;
use crate::support::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_away_with_1012_evenly_over_the_drain_period() {
    let mut node = TestNode::start(&["--drain-period", "2s"]).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(TestClient::connect(&node.url("/")).await);
    }
    node.begin_stop();
    let begun = Instant::now();
    let mut leaving = tokio::task::JoinSet::new();
    for mut client in clients {
        leaving.spawn(async move {
            assert_eq!(
                client.closed().await,
                Some((1012, "restarting, come back".into()))
            );
            begun.elapsed()
        });
    }
    let mut times = leaving.join_all().await;
    times.sort();
    // Not all at the beginning, nor all at the end. The upper bound is generous, because the
    // machine may be busy.
    assert!(
        times[25] > Duration::from_millis(200) && times[50] > Duration::from_millis(600),
        "{times:?}"
    );
    assert!(
        times[99] > Duration::from_millis(1500) && times[25] < times[75],
        "{times:?}"
    );
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_is_unready_first_serves_through_the_delay_and_is_gone_after_it() {
    let mut node = TestNode::start(&["--drain-delay", "1s", "--drain-period", "1s"]).await;
    let mut client = TestClient::connect(&node.url("/")).await;
    assert_eq!(
        node.get_ops("/readyz").await,
        (200, "ready, broker up\n".into())
    );
    node.begin_stop();
    until("it is unready", async || {
        node.get_ops("/readyz").await.0 == 503
    })
    .await;
    assert_eq!(node.get_ops("/livez").await.0, 200);
    assert_eq!(node.metric("echocast_draining").await, 1.0);
    // A balancer that has not noticed yet still sends clients.
    let mut newcomer = TestClient::connect(&node.url("/")).await;
    client.say("still served").await;
    for client in [&mut client, &mut newcomer] {
        client.expect(["still served"]).await;
        assert_eq!(client.closed().await.unwrap().0, 1012);
    }
    let (address, ops) = (node.address, node.ops);
    node.ended().await;
    for address in [address, ops] {
        assert!(
            tokio::net::TcpStream::connect(address).await.is_err(),
            "{address} is closed"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_the_end_reaches_the_other_nodes() {
    let mut cluster = Cluster::redis(2, &["--drain-period", "0s"]).await;
    let mut there = cluster.client(1, "/").await;
    let mut here = cluster.client(0, "/").await;
    for number in 0..500 {
        here.say(&number.to_string()).await;
    }
    // It has read all of it when the first comes back, or slows the sender; either way what it took
    // it must hand on.
    here.expect(["0"]).await;
    cluster.nodes.remove(0).stop().await;
    let mut last = 0;
    let heard_here = loop {
        match here.next().await {
            Message::Text(text) => last = text.parse().unwrap(),
            _ => break last,
        }
    };
    for number in 0..=heard_here {
        assert_eq!(there.hear().await, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signalled_process_drains_and_exits_0_and_a_second_signal_ends_it_at_once() {
    for signal in ["TERM", "INT"] {
        let node = NodeProcess::start(&["--drain-period", "100ms"]).await;
        let mut client = TestClient::connect(&node.url("/")).await;
        node.signal(signal).await;
        assert_eq!(client.closed().await.unwrap().0, 1012);
        let (status, log) = node.ended().await;
        assert!(status.success(), "{status} {log:?}");
        assert!(log.iter().any(|line| line.contains("drained")), "{log:?}");
    }
    let node = NodeProcess::start(&["--drain-delay", "10m"]).await;
    node.signal("TERM").await;
    until("it drains", async || {
        crate::support::client::http_get(node.ops, "/readyz", &[])
            .await
            .0
            == 503
    })
    .await;
    node.signal("TERM").await;
    assert_eq!(node.ended().await.0.code(), Some(143));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_leave_are_cut_off_when_the_grace_is_over() {
    let node = NodeProcess::start(&["--drain-period", "0s", "--shutdown-grace", "1s"]).await;
    // It never reads, so it never sees that it should leave, and a deep backlog keeps the close
    // from its socket.
    let silent = crate::support::client::RawClient::websocket(node.address, "/").await;
    let mut speaker = TestClient::connect(&node.url("/")).await;
    for _ in 0..200 {
        speaker.send(Message::binary(vec![7; 60_000])).await;
        speaker.next().await;
    }
    let begun = Instant::now();
    node.signal("TERM").await;
    let (status, _) = node.ended().await;
    assert!(
        status.success() && begun.elapsed() < Duration::from_secs(10),
        "{status} after {:?}",
        begun.elapsed()
    );
    drop(silent);
}

/// A broker that panics as soon as it has something to do.
struct Faulty;

impl Broker for Faulty {
    async fn run(self, link: Link, mut intake: Intake, _stop: CancellationToken) {
        if let Some(Change::New(channel, _)) = intake.changes.recv().await {
            channel.set_live(true);
        }
        link.hub.inbox().queued().await;
        panic!("on purpose");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_broker_panics_sends_its_clients_elsewhere_and_fails() {
    let ports = [
        "--listen",
        "127.0.0.1:0",
        "--ops-listen",
        "127.0.0.1:0",
        "--drain-period",
        "0s",
        "--drain-delay",
        "0s",
    ];
    let node = Node::bind(Config::from_args(ports).unwrap()).unwrap();
    let url = format!("ws://{}/", node.address().unwrap());
    let run = tokio::spawn(node.run_with(Faulty, std::future::pending()));
    let mut client = TestClient::connect(&url).await;
    client.say("anything").await;
    assert_eq!(
        client.closed().await,
        Some((1012, "restarting, come back".into()))
    );
    let error = soon("the node ends", run).await.unwrap().unwrap_err();
    assert!(
        format!("{error:#}").starts_with("the broker failed: "),
        "{error:#}"
    );
}
