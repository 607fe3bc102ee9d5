//! The broker over Redis.
//!
//! | module | owns |
//! |---|---|
//! | [`topology`], [`server`] | which servers there are, which has which channel, and how to connect to it |
//! | [`fitness`], [`round_trips`] | whether a server can be the broker, and whether what is published there comes back |
//! | [`publishers`], [`publisher`] | the way from the inbox to each server |
//! | [`subscribers`], [`subscriber`], [`pushes`] | the subscriptions to each server, and what they bring |
//! | [`receivers`], [`receiver`] | the way from there to the feeds: order, repetitions, gaps |
//! | [`catch_up`], [`replay`], [`pages`], [`history`] | reading what subscriptions did not bring, and what clients want of the time before them |
//! | [`names`], [`warnings`], [`backoff`] | what all of these use |

mod backoff;
mod catch_up;
mod fitness;
mod history;
mod names;
mod pages;
mod publisher;
mod publishers;
mod pushes;
mod receiver;
mod receivers;
mod replay;
mod round_trips;
mod server;
mod subscriber;
mod subscribers;
mod topology;
mod warnings;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::feed::Retention;
use crate::hub::Intake;
use crate::redis_address::RedisAddress;
use crate::redis_address::tls::RedisTls;
use backoff::Backoff;
use names::Names;
use receiver::Shared;
use receivers::Receivers;
use server::Server;
use topology::Topology;
use warnings::Warnings;

/// How long making a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// How long Redis may take to answer before the connection counts as dead. A path that is gone
/// without a word costs this once, and then making a new connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How much longer than its messages a channel's offset and epoch are remembered: a client that
/// comes back the next day learns exactly how much it has missed, mostly nothing.
const META_OUTLIVES: Duration = Duration::from_secs(24 * 60 * 60);

/// How long Redis remembers a publisher that is silent: the longest time that a node may be cut off
/// from Redis and still not publish twice what it has sent before. See `publish.lua`, step 8.
const REMEMBER_PUBLISHERS: Duration = Duration::from_secs(10 * 60);

/// Names that are tried for a probe's channel: one of them is in a given slot of a Cluster almost
/// certainly.
const PROBES: u32 = 200_000;

/// Many nodes, one Redis: a server, a master with its Sentinels, or a Cluster.
#[derive(Debug)]
pub(crate) struct Redis {
    topology: Topology,
    names: Names,
    /// Tells this node's probes from others'.
    node: u64,
    retention: Retention,
    warnings: Arc<Warnings>,
}

impl Redis {
    /// A broker for this address; nothing is connected yet. Of `retention`, Redis keeps messages,
    /// their bytes and time to live.
    pub(crate) fn new(
        address: RedisAddress,
        tls: RedisTls,
        prefix: &str,
        retention: Retention,
    ) -> Self {
        let topology = Topology::new(address, tls);
        let names = Names::new(prefix, topology.database());
        Self {
            topology,
            names,
            node: rand::random(),
            retention,
            warnings: Arc::new(Warnings::new()),
        }
    }
}

impl Broker for Redis {
    async fn run(self, link: Link, intake: Intake, stop: CancellationToken) {
        let (requests, requested) = unbounded_channel();
        let (gone, has_gone) = unbounded_channel();
        let shared = Arc::new(self.shared(&link, requests));
        let receivers = Arc::new(Receivers::new(self.names.clone(), shared.clone()));
        // Publishing ends first: until then the node's own messages come back over the
        // subscriptions.
        let published = CancellationToken::new();
        let redis = Arc::new(self);
        // A task each, so that none of them waits while another encodes or decodes. They end with
        // the set.
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (redis, status) = (redis.clone(), link.status.clone());
            async move { redis.topology.keep(&status).await }
        });
        tasks.spawn({
            let redis = redis.clone();
            async move { catch_up::run(&redis, &shared, requested, intake.history_requests).await }
        });
        tasks.spawn({
            let (redis, link, receivers) = (redis.clone(), link.clone(), receivers.clone());
            let published = published.clone();
            async move {
                publishers::run(&redis, &link, &receivers, has_gone, stop).await;
                published.cancel();
            }
        });
        let subscribing = tasks.spawn({
            let (link, changes) = (link.clone(), intake.changes);
            async move { subscribers::run(&redis, &link, receivers, changes, gone, published).await }
        });
        let last = subscribing.id();
        end_of(tasks, last).await;
        link.status.set(false);
    }
}

/// Waits until the task that ends last has ended. A panic of any task ends the broker: the node
/// drains for it.
async fn end_of(mut tasks: JoinSet<()>, last: Id) {
    while let Some(ended) = tasks.join_next_with_id().await {
        match ended {
            Ok((id, ())) if id == last => return,
            Ok(_) => {}
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return,
            },
        }
    }
}

impl Redis {
    fn shared(&self, link: &Link, requests: UnboundedSender<receiver::Request>) -> Shared {
        let kept_for = if self.retention.messages > 0 {
            self.retention.ttl + META_OUTLIVES
        } else {
            Duration::ZERO
        };
        Shared {
            link: link.clone(),
            warnings: self.warnings.clone(),
            kept_for,
            rounds: AtomicU64::new(0),
            requests,
        }
    }

    /// In a Cluster, a sharded message goes only to the nodes that have the channel's slot. Any other
    /// goes to all of them.
    fn publish_command(&self) -> &'static str {
        if self.topology.is_cluster() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// The pub/sub channel on which this node receives its own probes of a server: one that is there.
    fn probe(&self, server: &Arc<Server>) -> anyhow::Result<String> {
        let map = self.topology.map();
        let is_there = |name: &String| {
            map.owner_of(name)
                .is_some_and(|owner| Arc::ptr_eq(owner, server))
        };
        let mut names = (0..PROBES).map(|number| self.names.probe(self.node, number));
        names
            .find(is_there)
            .context("it has no channels any more, or very few")
    }
}
