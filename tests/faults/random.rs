//! Faults in a random order that a seed decides, for a time that the caller decides: what
//! `tests/chaos SECONDS SEED` runs, and the test suite for a short while. Only faults that lose
//! nothing: nobody may find anything missing in the end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use super::play::{Play, STEADY};
use super::redis::DURABLE;
use super::stage::{NODES, Stage};
use crate::support::redis::Redis;

/// What can happen.
#[derive(Clone, Copy, Debug)]
enum Fault {
    RedisPaused(Duration),
    RedisKilled(Duration),
    /// Subscriptions, or all the other connections.
    ConnectionsKilled(&'static str),
    ScriptsFlushed,
    RedisFull(Duration),
    /// Delay, and the share of lost packets, for a while; on the path of one node.
    BadPath(usize, Duration, f64, Duration),
    StillPath(usize, Duration),
    PathLost(usize),
    ConnectionsCut(usize),
    NodeKilled(usize, Duration),
    NodeRestarted(usize),
    NodeStopped(usize, Duration),
}

impl Fault {
    fn random(random: &mut StdRng) -> Self {
        let node = random.random_range(0..NODES);
        let mut time =
            |seconds: std::ops::Range<f64>| Duration::from_secs_f64(random.random_range(seconds));
        let (short, long, delay) = (time(0.1..2.0), time(1.0..6.0), time(0.005..0.1));
        match random.random_range(0..13) {
            0 => Self::RedisPaused(long),
            1 => Self::RedisKilled(short),
            2 => Self::ConnectionsKilled("pubsub"),
            3 => Self::ConnectionsKilled("normal"),
            4 => Self::ScriptsFlushed,
            5 => Self::RedisFull(short),
            6 => Self::BadPath(node, delay, random.random_range(0.0..0.2), long),
            7 => Self::StillPath(node, long),
            8 => Self::PathLost(node),
            9 => Self::ConnectionsCut(node),
            10 => Self::NodeKilled(node, short),
            11 => Self::NodeRestarted(node),
            _ => Self::NodeStopped(node, long),
        }
    }

    /// Lets it happen; when this returns it is over, but what it did may not be.
    async fn happen(self, stage: &mut Stage) {
        match self {
            Self::RedisPaused(time) => {
                stage.redis.pause().await;
                sleep(time).await;
                stage.redis.unpause().await;
            }
            Self::RedisKilled(time) => {
                stage.redis.kill().await;
                sleep(time).await;
                stage.redis.restart().await;
            }
            Self::ConnectionsKilled(kind) => {
                stage.redis.tell(&["CLIENT", "KILL", "TYPE", kind]).await
            }
            Self::ScriptsFlushed => stage.redis.tell(&["SCRIPT", "FLUSH"]).await,
            Self::RedisFull(time) => {
                stage
                    .redis
                    .tell(&["CONFIG", "SET", "maxmemory", "1mb"])
                    .await;
                sleep(time).await;
                stage.redis.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Self::BadPath(node, delay, loss, time) => {
                stage.networks[node].lossy(delay, loss);
                sleep(time).await;
                stage.networks[node].calm();
            }
            Self::StillPath(node, time) => {
                stage.networks[node].still();
                sleep(time).await;
                stage.networks[node].calm();
            }
            Self::PathLost(node) => stage.networks[node].lose_path(),
            Self::ConnectionsCut(node) => stage.networks[node].cut(),
            Self::NodeKilled(node, time) => {
                stage.nodes[node].signal("KILL").await;
                sleep(time).await;
                stage.replace(node).await;
            }
            Self::NodeRestarted(node) => stage.restart(node).await,
            Self::NodeStopped(node, time) => {
                stage.nodes[node].signal("STOP").await;
                sleep(time).await;
                stage.nodes[node].signal("CONT").await;
            }
        }
    }

    /// The node whose clients lose their connection by this.
    fn ends(self) -> Option<usize> {
        match self {
            Self::NodeKilled(node, _) | Self::NodeRestarted(node) => Some(node),
            _ => None,
        }
    }
}

/// A number that the caller decides by an environment variable.
fn setting<T: FromStr<Err: fmt::Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|error| panic!("{name}={value}: {error:?}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::print_stdout,
    reason = "whoever asks for hours of this wants to see what happens, and the counts"
)]
async fn random_faults_lose_nothing() {
    let time = Duration::from_secs(setting("ECHOCAST_CHAOS_SECONDS", 20));
    let mut random = StdRng::seed_from_u64(setting("ECHOCAST_CHAOS_SEED", 3));
    let mut stage = Stage::over_networks(Redis::start_with(DURABLE).await).await;
    let mut play = Play::begin(&stage.addresses, STEADY).await;
    let began = Instant::now();
    while began.elapsed() < time {
        // Short enough that the next fault often finds the last one not repaired yet.
        sleep(Duration::from_secs_f64(random.random_range(0.1..2.5))).await;
        let fault = Fault::random(&mut random);
        println!("{:7.1} s  {fault:?}", began.elapsed().as_secs_f32());
        fault.happen(&mut stage).await;
        if let Some(node) = fault.ends() {
            play.join(stage.nodes[node].address).await;
        }
    }
    // Who came last hears something, too.
    sleep(Duration::from_secs(1)).await;
    let outcome = play.end(began..Instant::now()).await;
    outcome.print("random faults");
    let verdict = outcome.audit(true);
    println!("{verdict}");
    assert!(
        verdict.is_clean() && verdict.told == 0,
        "{:#?}",
        verdict.complaints
    );
}
