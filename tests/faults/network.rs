//! The network between nodes and Redis delays, loses, forgets connections, and cuts them in the
//! middle of what they carry.

use std::time::Duration;

use tokio::time::sleep;

use super::play::Play;
use super::stage::{LOST, RECONNECTS, RECOVERED, Stage};
use crate::support::redis::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_delays_and_loses_packets_loses_no_message() {
    let stage = Stage::over_networks(Redis::start().await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "30 ms delay and 5 % packet loss to Redis",
        async {
            stage
                .networks
                .iter()
                .for_each(|network| network.lossy(Duration::from_millis(30), 0.05));
            sleep(Duration::from_secs(8)).await;
            stage.networks.iter().for_each(|network| network.calm());
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert!(
        outcome.late()[1].p50 >= Duration::from_millis(60),
        "there and back again it takes a while"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_connections_are_half_open_notices_and_loses_nothing() {
    let stage = Stage::over_networks(Redis::start().await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "one node's connections to Redis half-open",
        async {
            stage.networks[0].lose_path();
            sleep(Duration::from_secs(7)).await;
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert!(stage.node_metric(0, RECONNECTS).await > 0, "it noticed");
    assert!(
        outcome.late()[0].max < Duration::from_secs(8),
        "all its connections, within seconds: {}",
        outcome.late()[0]
    );
    assert!(
        stage.node_metric(0, RECOVERED).await > 0,
        "there was something to repair"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_middle_of_a_message_lose_nothing() {
    let stage = Stage::over_networks(Redis::start().await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "connections to Redis cut in the middle of a message, every 250 ms",
        async {
            for round in 0..20 {
                stage.networks[round % stage.networks.len()].cut();
                sleep(Duration::from_millis(250)).await;
            }
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    for node in 0..stage.nodes.len() {
        assert!(
            stage.node_metric(node, RECONNECTS).await > 0,
            "it was cut off"
        );
    }
    assert_eq!(stage.metric(LOST).await, 0);
}
