//! A node: wiring and life. [`Node::bind`] opens the sockets. [`Node::run`] serves until it is
//! stopped or one of its tasks dies, and then [drains](drain): readiness off, drain delay,
//! listeners closed, sessions closed over the drain period, inbox published, ops port closed.

mod supervisor;
mod parts;
mod drain;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use self::drain::Drain;
use self::parts::Parts;
use self::supervisor::Supervisor;
use crate::broker::{self, Broker, Embedded};
use crate::client::close_reason::CloseReason;
use crate::client::rejection::Rejection;
use crate::config::{Config, RedisConfig, SlowClient};
use crate::http::listener::bind;
use crate::metrics::Metrics;
use crate::ws::shard::Shards;

/// A node with open sockets.
#[derive(Debug)]
pub struct Node {
    config: Config,
    listener: TcpListener,
    ops_listener: TcpListener,
    shards: Arc<Shards>,
    /// The tasks of the shards.
    shard_tasks: JoinSet<Infallible>,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Opens both ports.
    ///
    /// # Errors
    /// If one of them cannot be opened, or the system has no poll set left.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let closed = CloseReason::ALL.map(CloseReason::label);
        let metrics = Metrics::new(&closed, &Rejection::LABELS, &SlowClient::LABELS)?;
        let metrics = Arc::new(metrics);
        let workers = Handle::current().metrics().num_workers();
        let (shards, shard_tasks) = Shards::spawn(workers, &metrics)?;
        Ok(Self {
            listener: bind(config.network.listen)?,
            ops_listener: bind(config.network.ops_listen)?,
            shards: Arc::new(shards),
            shard_tasks,
            metrics,
            config,
        })
    }

    /// The address for clients.
    ///
    /// # Errors
    /// If the system does not know it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address for operators.
    ///
    /// # Errors
    /// If the system does not know it.
    pub fn ops_address(&self) -> std::io::Result<SocketAddr> {
        self.ops_listener.local_addr()
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// If one of its tasks died and it drained for that.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Config {
            redis, retention, ..
        } = &self.config;
        let Some(redis) = redis.clone() else {
            return self.run_with(Embedded::default(), stop).await;
        };
        let RedisConfig {
            address,
            tls,
            prefix,
        } = redis;
        let broker = broker::Redis::new(address, tls, &prefix, *retention);
        self.run_with(broker, stop).await
    }

    /// Serves with this broker until `stop`, then drains.
    ///
    /// # Errors
    /// If one of its tasks died and it drained for that.
    pub async fn run_with(
        self,
        broker: impl Broker,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let (parts, intake) = Parts::new(&self.config, self.metrics);
        let shutdown = &parts.shutdown;

        // None of these ends before it is told to, so an early end is a failure.
        let mut supervisor = Supervisor::default();
        supervisor.adopt("sessions", self.shard_tasks);
        let broker = broker.run(parts.link(), intake, shutdown.broker.clone());
        let broker = supervisor.spawn("broker", broker);
        parts.spawn_upkeep(&mut supervisor);
        let public_port = parts.public_server(&self.config, self.shards);
        let public_port = supervisor.spawn("public port", public_port.serve(self.listener));
        let ops_port = parts.ops_server(&self.config);
        let mut ops_port = supervisor.spawn("ops port", ops_port.serve(self.ops_listener));

        let outcome = tokio::select! {
            () = stop => Ok(()),
            // A node without one of its tasks must not look alive. Its clients go elsewhere.
            failure = supervisor.failed() => Err(failure),
        };

        let drain = Drain {
            config: self.config.shutdown,
            shutdown: shutdown.clone(),
            keepalives: parts.keepalives.clone(),
            metrics: parts.metrics.clone(),
            public_port,
            broker,
        };
        drain.run().await;
        // Last, so that the drain can be watched.
        shutdown.ops.cancel();
        ops_port.ended().await;
        supervisor.log_panics();
        outcome
    }
}
