//! The broker over Redis. It owns what things are called there. [`topology`] knows which server has
//! which channel, from the [address](crate::redis_address); [`publishers`] gives what the inbox holds to a [`publisher`] to
//! each server; [`subscribers`] keeps a [`subscriber`] to each server, which [`fitness`] has checked, and gives
//! what it brings to [`receiver`], the only writer of feeds; [`catch_up`] reads from the [`history`],
//! in [`pages`], what the subscriptions did not bring, and [`replay`] what clients want of the time
//! before them.

mod catch_up;
mod warnings;
mod pushes;
mod fitness;
mod history;
mod publisher;
mod subscriber;
mod subscribers;
mod pages;
mod publishers;
mod receiver;
mod replay;
mod round_trips;
mod server;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::channel::ChannelName;
use crate::feed::Retention;
use crate::redis_address::RedisAddress;
use crate::redis_address::tls::RedisTls;
use receiver::Receivers;
use server::Server;
use topology::Topology;
use warnings::Warnings;

/// How long making a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// How long Redis may take to answer before the connection counts as dead. A path that is gone
/// without a word costs this once, and then making a new connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How much longer than its messages a channel's offset and epoch are remembered: a client that
/// comes back the next day is told exactly how much it has missed, mostly nothing.
const META_OUTLIVES: Duration = Duration::from_secs(24 * 60 * 60);

/// How long Redis remembers a publisher that is silent: the longest time that a node may be cut off
/// from Redis and still not publish twice what it has sent before. See `publish.lua`, step 8.
const REMEMBER_PUBLISHERS: Duration = Duration::from_secs(10 * 60);

/// Names that are tried for a probe's channel: one of them is in a given slot of a Cluster almost
/// certainly.
const PROBES: u32 = 200_000;

/// Many nodes, one Redis: a server, a master with its Sentinels, or a Cluster.
#[derive(Debug)]
pub struct Redis {
    topology: Topology,
    names: Names,
    node: u64,
    retention: Retention,
    warnings: Arc<Warnings>,
}

impl Redis {
    /// A broker for this address; nothing is connected yet. Of `retention`, Redis keeps messages,
    /// their bytes and time to live.
    pub fn new(address: RedisAddress, tls: RedisTls, prefix: &str, retention: Retention) -> Self {
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
    async fn run(self, link: Link, stop: CancellationToken) {
        let (requests, requested) = tokio::sync::mpsc::unbounded_channel();
        let kept_for = if self.retention.messages > 0 {
            self.retention.ttl + META_OUTLIVES
        } else {
            Duration::ZERO
        };
        let receivers = Arc::new(Receivers::new(
            link.clone(),
            self.names.clone(),
            self.warnings.clone(),
            kept_for,
            requests,
        ));
        let Some(history_requests) = link.hub.take_history_requests() else {
            return tracing::error!("this hub has a broker already");
        };
        let (gone, left) = tokio::sync::mpsc::unbounded_channel();
        // The publisher ends first: until then its own messages come back over the subscription.
        let published = CancellationToken::new();
        let redis = Arc::new(self);
        // A task each, so that none of them waits while another encodes or decodes. They end with
        // the set.
        let mut tasks = JoinSet::new();
        let (of_topology, status) = (redis.clone(), link.status.clone());
        tasks.spawn(async move { of_topology.topology.keep(&status).await });
        let (of_catch_up, of_relay) = (redis.clone(), receivers.clone());
        tasks.spawn(async move {
            catch_up::run(&of_catch_up, &of_relay, requested, history_requests).await
        });
        let (of_publishing, of_link, all_published) =
            (redis.clone(), link.clone(), published.clone());
        tasks.spawn(async move {
            publishers::run(&of_publishing, &of_link, left, stop).await;
            all_published.cancel();
        });
        let of_subscription = link.clone();
        let subscription = tasks
            .spawn(async move {
                subscribers::keep(&redis, &of_subscription, receivers, gone, published).await
            })
            .id();
        while let Some(ended) = tasks.join_next_with_id().await {
            match ended {
                Ok((id, ())) if id == subscription => break,
                Ok(_) => {}
                Err(error) => match error.try_into_panic() {
                    // The node that runs this broker drains for it.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => break,
                },
            }
        }
        link.status.set(false);
    }
}

impl Redis {
    /// What a Cluster calls sharded goes only to the nodes that have the channel's slot; what it
    /// calls by the old name goes to all of them.
    fn publish_command(&self) -> &'static str {
        if self.topology.is_cluster() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// The pub/sub channel on which this node hears its own probes of a server: one that is there.
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

/// What things are called in Redis.
#[derive(Clone, Debug)]
struct Names {
    prefix: Arc<str>,
    /// The beginning of the names of pub/sub channels. Redis has these once for all databases, so
    /// that the number of any but 0 is part of it.
    pubsub_prefix: Arc<str>,
}

impl Names {
    fn new(prefix: &str, database: i64) -> Self {
        let pubsub_prefix = if database == 0 {
            prefix.into()
        } else {
            format!("{prefix}:db{database}").into()
        };
        Self {
            prefix: prefix.into(),
            pubsub_prefix,
        }
    }

    /// The pub/sub channel of a channel. The braces keep all names of a channel in one cluster
    /// slot.
    fn pubsub(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}", self.pubsub_prefix)
    }

    /// The stream that keeps a channel's history: an entry a batch, its id the offset of the
    /// batch's last message, and the bytes that the history has cost up to there.
    fn stream(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:history", self.prefix)
    }

    /// The hash that counts a channel's offsets and bytes, names its epoch, and remembers what was
    /// published last by which node.
    fn meta(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:meta", self.prefix)
    }

    /// The sorted set of the keys that messages in the history were given, each with the message's
    /// offset, and beside each the same with the message's digest.
    fn keys(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:keys", self.prefix)
    }

    /// A pub/sub channel on which a node hears its own probes. No channel can be called that.
    fn probe(&self, node: u64, number: u32) -> String {
        format!("{}:probe:{node:016x}:{number}", self.prefix)
    }

    /// A key for [`fitness`]: in the slot of `tag`, and of no channel.
    fn rehearsal(&self, tag: &str, kind: &str) -> String {
        format!("{}:{{{tag}}}:rehearsal:{kind}", self.prefix)
    }

    /// The channel that a pub/sub channel belongs to.
    fn channel(&self, pubsub: &str) -> Option<ChannelName> {
        let name = pubsub
            .strip_prefix(&*self.pubsub_prefix)?
            .strip_prefix(":{")?
            .strip_suffix('}')?;
        ChannelName::new(name).ok()
    }
}

/// Time to wait before trying again: doubles from 50 ms to 1 s, half of it at random, so that nodes
/// which lost Redis together do not come back together.
#[derive(Debug, Default)]
struct Backoff {
    tries: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let whole = Duration::from_millis(50 << self.tries.min(6)).min(Duration::from_secs(1));
        self.tries += 1;
        whole.div_f64(2.0) + whole.mul_f64(rand::random_range(0.0..0.5))
    }

    /// Whether trying again has failed, too.
    fn is_long(&self) -> bool {
        self.tries > 1
    }

    fn reset(&mut self) {
        self.tries = 0;
    }
}
