//! The broker over Redis. It owns how a node reaches Redis and what things are called there. [`publish`] sends what the
//! inbox holds over pooled connections; [`link`] keeps the one subscription and gives what it brings to [`relay`], the only
//! writer of feeds; [`catch_up`] reads from the [`history`] what the subscription did not bring.

mod catch_up;
mod history;
mod link;
mod publish;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::channel::ChannelName;
use crate::feed::Retention;
use relay::Relay;

/// How long making a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// How long Redis may take to answer before the connection counts as dead. A path that is gone without a word costs this
/// once, and then making a new connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How much longer than its messages a channel's offset and epoch are remembered: a client that comes back the next day
/// is told exactly how much it has missed, mostly nothing.
const META_OUTLIVES: Duration = Duration::from_secs(24 * 60 * 60);

/// Many nodes, one Redis.
#[derive(Debug)]
pub struct Redis {
    info: ConnectionInfo,
    names: Names,
    node: u64,
    retention: Retention,
}

impl Redis {
    /// A broker for this address; nothing is connected yet. Of `retention`, Redis keeps messages and time to live.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub fn new(url: &str, prefix: &str, retention: Retention) -> anyhow::Result<Self> {
        let info = url.into_connection_info().context("--redis-url")?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        Ok(Self { info, names: Names { prefix: prefix.into() }, node: rand::random(), retention })
    }
}

impl Broker for Redis {
    async fn run(self, link: Link, stop: CancellationToken) {
        let (requests, requested) = tokio::sync::mpsc::unbounded_channel();
        let kept_for = if self.retention.messages > 0 { self.retention.ttl + META_OUTLIVES } else { Duration::ZERO };
        let relay = Arc::new(Relay::new(link.clone(), self.names.clone(), kept_for, requests));
        let Some(readings) = link.hub.readings() else { return tracing::error!("this hub has a broker already") };
        // The publisher ends first: until then its own messages come back over the subscription.
        let published = CancellationToken::new();
        let subscription = link::keep(&self, &link, relay.clone(), published.clone());
        let publishing = async {
            publish::run(&self, &link, stop).await;
            published.cancel();
        };
        tokio::select! {
            () = catch_up::run(&self, &relay, requested, readings) => {}
            _ = async { tokio::join!(subscription, publishing) } => {}
        }
        link.status.set(false);
    }
}

impl Redis {
    fn connection_config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_PATIENCE))
            .set_response_timeout(Some(ANSWER_PATIENCE))
    }
}

/// What things are called in Redis.
#[derive(Clone, Debug)]
struct Names {
    prefix: Arc<str>,
}

impl Names {
    /// The pub/sub channel of a channel. The braces keep all names of a channel in one cluster slot.
    fn pubsub(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}", self.prefix)
    }

    /// The stream that keeps a channel's history: an entry a batch, its id the offset of the batch's last message.
    fn stream(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:history", self.prefix)
    }

    /// The hash that counts a channel's offsets, names its epoch, and remembers what was published last by which node.
    fn meta(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:meta", self.prefix)
    }

    /// The sorted set of the keys that messages in the history were given, each with the message's offset.
    fn keys(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:keys", self.prefix)
    }

    /// The pub/sub channel on which a node hears its own probes. No channel can be called that.
    fn probe(&self, node: u64) -> String {
        format!("{}:probe:{node:016x}", self.prefix)
    }

    /// The channel that a pub/sub channel belongs to.
    fn channel(&self, pubsub: &str) -> Option<ChannelName> {
        let name = pubsub.strip_prefix(&*self.prefix)?.strip_prefix(":{")?.strip_suffix('}')?;
        ChannelName::new(name).ok()
    }
}

/// Time to wait before trying again: doubles from 50 ms to 1 s, half of it at random, so that nodes which lost Redis
/// together do not come back together.
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
