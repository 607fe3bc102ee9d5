//! Sentinels make a replica the master, because the master is dead, stands still, or is told to
//! give way.

use std::time::Duration;

use tokio::time::sleep;

use super::play::Play;
use super::redis::no_loss_is_silent;
use super::stage::{RECONNECTS, Stage};
use crate::support::fleet::Fleet;
use crate::support::until;

async fn stage() -> Stage<Fleet> {
    let fleet = Fleet::sentinels().await;
    let url = fleet.sentinel_url();
    Stage::over(fleet, url).await
}

/// Waits until Sentinels name another master.
async fn failover(fleet: &Fleet) {
    until("there is another master", async || {
        let master = fleet
            .cli(&[
                "-p",
                "7010",
                "sentinel",
                "get-master-addr-by-name",
                "mymaster",
            ])
            .await;
        !master.contains("7000")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_followed_by_another_and_nothing_is_lost_silently() {
    let stage = stage().await;
    let outcome = Play::steady(
        &stage.addresses,
        "the master killed, a replica takes over",
        async {
            stage.redis.signal("KILL", 7000).await;
            failover(&stage.redis).await;
            sleep(Duration::from_secs(2)).await;
        },
    )
    .await;
    no_loss_is_silent(&stage, &outcome).await;
    assert!(stage.metric(RECONNECTS).await >= 3, "all nodes went there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_stands_still_and_comes_back_as_a_replica_loses_nothing_silently() {
    let stage = stage().await;
    let outcome = Play::steady(
        &stage.addresses,
        "the master stands still, a replica takes over",
        async {
            stage.redis.signal("STOP", 7000).await;
            failover(&stage.redis).await;
            // It takes itself for the master until it is told.
            stage.redis.signal("CONT", 7000).await;
            sleep(Duration::from_secs(2)).await;
        },
    )
    .await;
    no_loss_is_silent(&stage, &outcome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_told_to_give_way_loses_nothing_silently() {
    let stage = stage().await;
    let outcome = Play::steady(
        &stage.addresses,
        "the master gives way to a replica",
        async {
            stage
                .redis
                .cli(&["-p", "7010", "sentinel", "failover", "mymaster"])
                .await;
            failover(&stage.redis).await;
            sleep(Duration::from_secs(2)).await;
        },
    )
    .await;
    no_loss_is_silent(&stage, &outcome).await;
}
