//! From the inbox to Redis. While one pipeline is on its way the inbox fills, and all of that is the next pipeline, one
//! PUBLISH a channel and batch: at low load nothing waits, under load one command carries many messages.

use deadpool_redis::{Connection, Manager, Pool};
use prost::Message as _;
use redis::{Pipeline, Script};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};

use super::super::Link;
use super::super::envelope::{Envelope, Said};
use super::{Backoff, Redis};
use crate::channel::ChannelName;
use crate::hub::Outgoing;
use crate::message::{Kind, now_ns};
use crate::telemetry;

/// One publisher holds one connection; the pool makes and checks it, and a second one is there while a first is dying.
const CONNECTIONS: usize = 2;

/// What publishes a batch and keeps it: one call, so that history and delivery agree whatever breaks in between.
const SCRIPT: &str = include_str!("publish.lua");

/// Payload bytes of one pipeline, so that its answer comes long before patience ends.
const PIPELINE_BYTES: usize = 1024 * 1024;

/// Publishes until `stop`, then what is left, however long that takes: its caller's patience is the bound.
pub(super) async fn run(redis: &Redis, link: &Link, stop: CancellationToken) {
    let mut publisher = match Publisher::new(redis, link) {
        Ok(publisher) => publisher,
        Err(error) => return tracing::error!("cannot publish to redis: {error:#}"),
    };
    loop {
        tokio::select! {
            taken = link.hub.inbox().take() => publisher.publish(taken).await,
            () = stop.cancelled() => break,
        }
    }
    publisher.publish(link.hub.inbox().try_take()).await;
}

struct Publisher<'a> {
    redis: &'a Redis,
    link: &'a Link,
    pool: Pool,
    /// Held across pipelines: the pool checks a connection with a round trip each time it hands it out.
    connection: Option<Connection>,
    script: Script,
}

impl<'a> Publisher<'a> {
    fn new(redis: &'a Redis, link: &'a Link) -> anyhow::Result<Self> {
        let manager = Manager::new_with_config(redis.info.clone(), redis.connection_config())?;
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build()?;
        Ok(Self { redis, link, pool, connection: None, script: Script::new(SCRIPT) })
    }

    async fn publish(&mut self, taken: Vec<Outgoing>) {
        let mut taken = taken.into_iter().peekable();
        while taken.peek().is_some() {
            let mut pipeline = redis::pipe();
            let (mut messages, mut bytes) = (0, 0);
            let published_ns = now_ns();
            let span = telemetry::publish_span("redis");
            while bytes < PIPELINE_BYTES
                && let Some(Outgoing { channel, number, batch }) = taken.next()
            {
                messages += batch.len();
                bytes += batch.bytes();
                self.link.metrics.batch_messages.observe(batch.len() as f64);
                let said = batch.into_messages().map(|(kind, payload)| Said {
                    binary: kind == Kind::Binary,
                    payload,
                    ..Said::default()
                });
                let envelope = Envelope {
                    node: channel.publisher,
                    number,
                    published_ns,
                    traceparent: telemetry::traceparent(&span),
                    messages: said.collect(),
                    ..Envelope::default()
                };
                self.add(&mut pipeline, &channel.name, &envelope);
            }
            self.send(&pipeline).instrument(span).await;
            let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
            self.link.metrics.publish_seconds.observe(seconds);
            self.link.hub.inbox().settle(messages, bytes);
        }
    }

    fn add(&self, pipeline: &mut Pipeline, name: &ChannelName, envelope: &Envelope) {
        let Redis { names, retention, .. } = self.redis;
        if retention.messages == 0 {
            pipeline.cmd("PUBLISH").arg(names.pubsub(name)).arg(envelope.encode_payload()).ignore();
            return;
        }
        let last = envelope.number + envelope.messages.len() as u64 - 1;
        let seconds = envelope.published_ns / 1_000_000_000;
        pipeline.cmd("EVALSHA").arg(self.script.get_hash()).arg(2).arg(names.meta(name)).arg(names.stream(name));
        pipeline.arg(names.pubsub(name)).arg(format!("{:016x}", envelope.node));
        pipeline.arg(format!("{:020}", envelope.number)).arg(format!("{last:020}")).arg(envelope.messages.len());
        pipeline.arg(envelope.encode_to_vec()).arg(retention.messages).arg(retention.ttl.as_millis() as u64);
        pipeline.arg(&rand::random::<u64>().max(1).to_le_bytes()[..]).arg(seconds).ignore();
    }

    /// Sends until Redis has it: publishing again after a lost answer is harmless, since relays know what they heard.
    async fn send(&mut self, pipeline: &Pipeline) {
        let mut backoff = Backoff::default();
        loop {
            if self.redis.retention.messages == 0 {
                // While our own subscription is down, what we publish would never come back to our own clients.
                self.link.status.wait_up().await;
            }
            let Err(error) = self.try_send(pipeline).await else { return };
            self.connection = None;
            let pause = backoff.next();
            warn!(retry_ms = pause.as_millis() as u64, "publishing to redis failed: {error:#}");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_send(&mut self, pipeline: &Pipeline) -> anyhow::Result<()> {
        if self.connection.is_none() {
            let mut connection = self.pool.get().await?;
            // Each time: Redis may have been restarted, or its scripts flushed.
            self.script.prepare_invoke().load_async(&mut connection).await?;
            self.connection = Some(connection);
        }
        if let Some(connection) = &mut self.connection {
            pipeline.exec_async(connection).await?;
        }
        Ok(())
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.pool.close();
    }
}
