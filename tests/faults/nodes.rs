//! Nodes are killed, stopped where they are, and restarted one after another.

use std::time::Duration;

use tokio::time::sleep;

use super::play::{Play, STEADY};
use super::stage::{LOST, Stage};
use crate::support::redis::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_nothing_that_was_acknowledged() {
    let mut stage = Stage::start(Redis::start().await).await;
    let outcome = Play::begin(&stage.addresses, STEADY)
        .await
        .through(async {
            stage.nodes[0].signal("KILL").await;
            sleep(Duration::from_secs(4)).await;
            stage.replace(0).await;
        })
        .await;
    outcome.print("a node killed");
    outcome.nothing_is_lost(1);
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing() {
    let mut stage = Stage::start(Redis::start().await).await;
    let outcome = Play::begin(&stage.addresses, STEADY)
        .await
        .through(async {
            for index in 0..stage.nodes.len() {
                stage.restart(index).await;
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
    outcome.print("rolling restart of all nodes");
    outcome.nothing_is_lost(3);
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_for_twenty_seconds_loses_nothing() {
    let stage = Stage::start(Redis::start().await).await;
    let outcome = Play::begin(&stage.addresses, STEADY)
        .await
        .through(async {
            stage.nodes[0].signal("STOP").await;
            sleep(Duration::from_secs(20)).await;
            stage.nodes[0].signal("CONT").await;
        })
        .await;
    outcome.print("a node stopped (SIGSTOP)");
    outcome.nothing_is_lost(0);
    assert!(
        outcome.resuming[0].connections > 1,
        "its careful clients went elsewhere"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}
