//! What a play is given on: three nodes over one Redis, each a process that can be signalled,
//! killed and replaced, with or without a bad network between it and Redis.

use super::journal::Journal;
use super::wire::Addresses;
use crate::support::client::http_get;
use crate::support::network::Network;
use crate::support::node::metric;
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;

/// What nodes lost for ever, and what they missed and got after all.
pub const LOST: &str = "echocast_messages_lost_total{cause=\"broker\"}";
pub const RECOVERED: &str = "echocast_messages_recovered_total";
/// How often nodes have had to connect to Redis again.
pub const RECONNECTS: &str = "echocast_broker_reconnects_total";

/// Of all nodes: no long goodbyes.
pub const FLAGS: &[&str] = &["--drain-period", "1s"];
/// Of most: room for all that is said in a test.
pub const ROOMY: &[&str] = &["--history", "100000"];

/// How many nodes there are.
pub const NODES: usize = 3;

/// Nodes over a Redis, or over what else there is to tell them to speak to.
pub struct Stage<R = Redis> {
    // Nodes end before what they are connected to.
    pub nodes: Vec<NodeProcess>,
    /// One for each node, if there are any.
    pub networks: Vec<Network>,
    pub redis: R,
    pub addresses: Addresses,
    /// What each node is told.
    urls: Vec<String>,
    flags: Vec<String>,
}

impl Stage {
    /// Three nodes, each with a connection of its own to Redis.
    pub async fn start(redis: Redis) -> Self {
        Self::of(NODES, redis).await
    }

    /// The same with fewer nodes, because others will join.
    pub async fn of(nodes: usize, redis: Redis) -> Self {
        Self::with(nodes, redis, Vec::new(), ROOMY).await
    }

    /// All nodes, each behind a network.
    pub async fn over_networks(redis: Redis) -> Self {
        Self::over_networks_with(redis, ROOMY).await
    }

    /// The same with these flags.
    pub async fn over_networks_with(redis: Redis, flags: &[&str]) -> Self {
        let mut networks = Vec::new();
        for _ in 0..NODES {
            networks.push(Network::start(redis.address()).await);
        }
        Self::with(NODES, redis, networks, flags).await
    }

    async fn with(nodes: usize, redis: Redis, networks: Vec<Network>, flags: &[&str]) -> Self {
        let address = |index: usize| {
            networks
                .get(index)
                .map_or(redis.address(), |network| network.address)
        };
        let urls = (0..nodes)
            .map(|index| format!("redis://{}", address(index)))
            .collect();
        Self::told(urls, redis, networks, flags).await
    }
}

impl<R> Stage<R> {
    /// Three nodes over what is at this address.
    pub async fn over(redis: R, url: String) -> Self {
        Self::told(vec![url; NODES], redis, Vec::new(), ROOMY).await
    }

    async fn told(urls: Vec<String>, redis: R, networks: Vec<Network>, flags: &[&str]) -> Self {
        let flags = FLAGS
            .iter()
            .chain(flags)
            .map(|flag| (*flag).to_owned())
            .collect();
        let mut stage = Self {
            nodes: Vec::new(),
            networks,
            redis,
            addresses: Journal::new(Vec::new()),
            urls,
            flags,
        };
        for index in 0..stage.urls.len() {
            let node = stage.new_node(index).await;
            stage.addresses.lock().push(node.address);
            stage.nodes.push(node);
        }
        stage
    }

    async fn new_node(&self, index: usize) -> NodeProcess {
        let flags = self
            .flags
            .iter()
            .map(String::as_str)
            .chain(["--redis-url", &self.urls[index]]);
        NodeProcess::start(&flags.collect::<Vec<_>>()).await
    }

    /// A new node in the place of one, which is killed if it still runs.
    pub async fn replace(&mut self, index: usize) {
        let node = self.new_node(index).await;
        self.addresses.lock()[index] = node.address;
        self.nodes[index] = node;
    }

    /// Tells a node to stop, waits until it has ended, and puts a new one in its place.
    pub async fn restart(&mut self, index: usize) {
        let node = self.nodes.remove(index);
        node.signal("TERM").await;
        let (status, log) = node.ended().await;
        assert!(status.success(), "{status}: {log:#?}");
        let node = self.new_node(index).await;
        self.addresses.lock()[index] = node.address;
        self.nodes.insert(index, node);
    }

    /// A metric of a node.
    pub async fn node_metric(&self, index: usize, name: &str) -> u64 {
        metric(
            &http_get(self.nodes[index].ops, "/metrics", &[]).await.1,
            name,
        ) as u64
    }

    /// The sum of a metric over all nodes.
    pub async fn metric(&self, name: &str) -> u64 {
        let mut sum = 0;
        for index in 0..self.nodes.len() {
            sum += self.node_metric(index, name).await;
        }
        sum
    }
}
