//! Redis stands still, dies, forgets, kills connections, runs full.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::audit::Verdict;
use super::play::{Outcome, Play};
use super::speaker::Manner;
use super::stage::{LOST, RECONNECTS, RECOVERED, Stage};
use crate::support::client::RawClient;
use crate::support::redis::Redis;
use crate::support::until;

/// Redis with all it acknowledged on disk.
pub const DURABLE: &[&str] = &[
    "redis-server",
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--save",
    "",
];

/// Redis that keeps only what it is told to.
const VOLATILE: &[&str] = &["redis-server", "--appendonly", "no", "--save", ""];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_for_ten_seconds_loses_nothing() {
    let stage = Stage::start(Redis::start().await).await;
    let outcome = Play::steady(&stage.addresses, "Redis paused", async {
        stage.redis.pause().await;
        sleep(Duration::from_secs(10)).await;
        stage.redis.unpause().await;
    })
    .await;
    outcome.nothing_is_lost(0);
    assert!(
        outcome.late()[1].max > Duration::from_secs(9),
        "it stood still"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_comes_back_with_its_data_loses_nothing() {
    let stage = Stage::start(Redis::start_with(DURABLE).await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "Redis killed, back with its data",
        async {
            stage.redis.kill().await;
            sleep(Duration::from_secs(2)).await;
            stage.redis.restart().await;
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert!(
        outcome.late()[1].max > Duration::from_secs(2),
        "it was away"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_loses_only_what_was_not_delivered_and_everybody_is_told() {
    let stage = Stage::over_networks(Redis::start().await).await;
    let outcome = Play::steady(&stage.addresses, "Redis killed, back empty", async {
        // One node does not hear what the others say, but has no time to notice that before all
        // is gone.
        stage.networks[0].lose_path();
        sleep(Duration::from_secs(1)).await;
        stage.redis.kill().await;
        stage.redis.restart().await;
        stage.networks[0].reset();
    })
    .await;
    every_loss_is_told_and_counted(&stage, &outcome).await;
    assert!(outcome.audit(false).told > 0, "there was something to lose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_older_data_loses_nothing_silently() {
    let stage = Stage::start(Redis::start_with(VOLATILE).await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "Redis killed, back with older data",
        async {
            stage.redis.tell(&["SAVE"]).await;
            // Said, heard, and then forgotten by Redis, which counts on from before it.
            sleep(Duration::from_secs(2)).await;
            stage.redis.kill().await;
            stage.redis.restart().await;
        },
    )
    .await;
    every_loss_is_told_and_counted(&stage, &outcome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_older_data_that_first_hears_of_a_node_that_knows_no_newer_loses_nothing_silently()
 {
    let stage = Stage::over_networks(Redis::start_with(VOLATILE).await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "Redis killed, back with older data, and a node behind is first",
        async {
            // What this node knows is as old as what Redis will have; the others know better, but
            // come back later.
            stage.networks[0].lose_path();
            stage.redis.tell(&["SAVE"]).await;
            sleep(Duration::from_secs(1)).await;
            stage.networks[1..]
                .iter()
                .for_each(|network| network.still());
            stage.redis.kill().await;
            stage.redis.restart().await;
            stage.networks.iter().for_each(|network| network.reset());
            sleep(Duration::from_secs(1)).await;
            stage.networks[1..]
                .iter()
                .for_each(|network| network.calm());
        },
    )
    .await;
    // Until they heard of each other, some gave the same ids again, and nobody can count what that
    // cost.
    let verdict = Verdict {
        reused: 0,
        ..outcome.audit(false)
    };
    assert!(
        verdict.is_clean() && verdict.told > 0,
        "{verdict}: {:#?}",
        verdict.complaints
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_too_short_for_an_outage_is_told_to_the_last_message() {
    let stage = Stage::over_networks_with(Redis::start().await, &["--history", "100"]).await;
    let outcome = Play::steady(
        &stage.addresses,
        "one node's path to Redis lost, history too short",
        async {
            stage.networks[0].lose_path();
            sleep(Duration::from_secs(6)).await;
        },
    )
    .await;
    every_loss_is_told_and_counted(&stage, &outcome).await;
    assert!(outcome.audit(false).told > 0, "there was something to lose");
}

/// Where nobody can recover: who was told, and what nodes counted.
async fn every_loss_is_told_and_counted(stage: &Stage, outcome: &Outcome) {
    let verdict = outcome.audit(false);
    assert!(verdict.is_clean(), "{verdict}: {:#?}", verdict.complaints);
    for (node, hearing) in outcome.plain.iter().enumerate() {
        assert!(hearing.to_end, "{} lost its connection", hearing.name);
        let (missed, lost) = (outcome.missed(hearing), stage.node_metric(node, LOST).await);
        assert_eq!(
            missed as u64, lost,
            "what {} missed, and what its node counted",
            hearing.name
        );
    }
    for (node, hearing) in outcome.resuming.iter().enumerate() {
        assert_eq!(
            hearing.connections, 1,
            "{} lost its connection",
            hearing.name
        );
        let node = node % outcome.plain.len();
        let told: u64 = hearing.gaps().into_iter().flatten().sum();
        let lost = stage.node_metric(node, LOST).await;
        assert_eq!(
            told, lost,
            "what {} was told, and what its node counted",
            hearing.name
        );
    }
}

/// The same where two servers may have taken messages at the same time: until nodes heard of each
/// other, they may have given ids twice, to others or to the same ones again. So nobody can say
/// exactly how much was lost, nor what came before what; but everybody hears each speaker in order,
/// and what is missing is told.
pub async fn no_loss_is_silent<R>(stage: &Stage<R>, outcome: &Outcome) {
    let verdict = outcome.audit(false);
    assert!(
        verdict.missing + verdict.misstated == 0,
        "{verdict}: {:#?}",
        verdict.complaints
    );
    for hearing in outcome.resuming.iter().chain(&outcome.plain) {
        let mut newest = std::collections::HashMap::new();
        for (said, _) in hearing.heard() {
            let before = newest.insert(said.speaker, said.number);
            assert!(
                before < Some(said.number),
                "{} hears {said} behind {before:?}",
                hearing.name
            );
        }
    }
    assert!(
        outcome.plain.iter().all(|hearing| hearing.to_end),
        "all plain listeners kept their connections"
    );
    for (index, hearing) in outcome.resuming.iter().enumerate() {
        assert_eq!(
            hearing.connections, 1,
            "{} lost its connection",
            hearing.name
        );
        let lost = stage.node_metric(index % outcome.plain.len(), LOST).await;
        assert!(
            lost == 0 || !hearing.gaps().is_empty(),
            "{} was not told of what its node counted",
            hearing.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_all_the_time_lose_nothing() {
    let stage = Stage::start(Redis::start().await).await;
    let outcome = Play::steady(
        &stage.addresses,
        "all connections killed every 200 ms",
        async {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(10) {
                stage
                    .redis
                    .tell(&["CLIENT", "KILL", "TYPE", "pubsub"])
                    .await;
                stage
                    .redis
                    .tell(&["CLIENT", "KILL", "TYPE", "normal"])
                    .await;
                sleep(Duration::from_millis(200)).await;
            }
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert_eq!(stage.metric(LOST).await, 0);
    assert!(
        stage.metric(RECOVERED).await > 0,
        "there was something to repair"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_that_overruns_the_output_buffer_loses_nothing() {
    let stage = Stage::start(Redis::start().await).await;
    let flood = Manner {
        every: Duration::from_millis(20),
        padding: 8 * 1024,
    };
    let outcome = Play::begin(&stage.addresses, flood)
        .await
        .through(async {
            // Less than a batch of two: Redis ends a subscription whenever that much waits for it.
            stage
                .redis
                .tell(&[
                    "CONFIG",
                    "SET",
                    "client-output-buffer-limit",
                    "pubsub 16384 16384 0",
                ])
                .await;
            sleep(Duration::from_secs(4)).await;
            stage
                .redis
                .tell(&[
                    "CONFIG",
                    "SET",
                    "client-output-buffer-limit",
                    "pubsub 33554432 8388608 60",
                ])
                .await;
        })
        .await;
    outcome.print("flood that overruns the output buffer");
    outcome.nothing_is_lost(0);
    assert_eq!(stage.metric(LOST).await, 0);
    assert!(
        stage.metric(RECONNECTS).await > 0,
        "subscriptions were ended"
    );
    assert!(
        stage.metric(RECOVERED).await > 0,
        "there was something to repair"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_lose_nothing() {
    let stage = Stage::start(Redis::start().await).await;
    let outcome = Play::steady(&stage.addresses, "scripts flushed every 100 ms", async {
        for _ in 0..20 {
            stage.redis.tell(&["SCRIPT", "FLUSH"]).await;
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    outcome.nothing_is_lost(0);
    let mut redis = stage.redis.connect().await;
    let errors: String = ::redis::cmd("INFO")
        .arg("errorstats")
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(
        errors.contains("errorstat_NOSCRIPT:"),
        "scripts were missing: {errors}"
    );
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_refuses_and_afterwards_all_goes_on() {
    let stage = Stage::start(Redis::start().await).await;
    let outcome = Play::steady(&stage.addresses, "Redis out of memory", async {
        stage
            .redis
            .tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
            .await;
        stage
            .redis
            .tell(&["CONFIG", "SET", "maxmemory", "1mb"])
            .await;
        sleep(Duration::from_secs(2)).await;
        for node in &stage.nodes {
            let answer = post(node.address, "/full").await;
            assert!(
                answer.starts_with("HTTP/1.1 503 ")
                    && answer.to_lowercase().contains("\r\nretry-after: "),
                "{answer}"
            );
        }
        stage.redis.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
        for node in &stage.nodes {
            until("posting works again", async || {
                post(node.address, "/full")
                    .await
                    .starts_with("HTTP/1.1 200 ")
            })
            .await;
        }
    })
    .await;
    assert!(outcome.refused() > 0, "speakers were told");
    outcome.nothing_is_lost(0);
    assert_eq!(stage.metric(LOST).await, 0);
}

/// Publishes one message by HTTP; returns the whole answer.
async fn post(address: std::net::SocketAddr, path: &str) -> String {
    let mut client = RawClient::connect(address).await;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    );
    client.send(request.as_bytes()).await;
    String::from_utf8(client.read_to_end().await).unwrap()
}
