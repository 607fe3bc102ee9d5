//! Nodes that hear each other, whatever the broker.

use super::client::TestClient;
use super::node::TestNode;
use super::redis::Redis;

/// Some nodes and what connects them.
pub struct Cluster {
    // Nodes end before their Redis.
    pub nodes: Vec<TestNode>,
    pub redis: Option<Redis>,
}

impl Cluster {
    /// One node.
    pub async fn embedded(flags: &[&str]) -> Self {
        Self {
            nodes: vec![TestNode::start(flags).await],
            redis: None,
        }
    }

    /// Some nodes over a Redis of their own.
    pub async fn redis(nodes: usize, flags: &[&str]) -> Self {
        Self::over(Redis::start().await, nodes, flags).await
    }

    /// Some nodes over this Redis.
    pub async fn over(redis: Redis, nodes: usize, flags: &[&str]) -> Self {
        let url = redis.url();
        let mut cluster = Self {
            nodes: Vec::new(),
            redis: Some(redis),
        };
        for _ in 0..nodes {
            cluster
                .nodes
                .push(TestNode::start(&[&["--redis-url", &url], flags].concat()).await);
        }
        cluster
    }

    /// Node `index`, or with fewer nodes the one that stands for it.
    pub fn node(&self, index: usize) -> &TestNode {
        &self.nodes[index % self.nodes.len()]
    }

    /// A client of node `index` on a path.
    pub async fn client(&self, index: usize, path: &str) -> TestClient {
        TestClient::connect(&self.node(index).url(path)).await
    }

    /// The sum of a metric over all nodes.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            sum += node.metric(name).await;
        }
        sum
    }
}
