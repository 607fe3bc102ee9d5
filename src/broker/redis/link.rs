//! The subscription: one connection, kept for ever. It owns which channels this node hears, and proves that it hears:
//! a probe goes through Redis to itself every second, and if one does not come back the connection is made anew. A socket
//! that looks fine and brings nothing is how such systems fail in silence.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use redis::aio::MultiplexedConnection;
use redis::{Client, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::Link;
use super::relay::Relay;
use super::{Backoff, Redis};
use crate::hub::{Change, Channel};

/// Time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A probe that takes longer means that the link is down.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// If the last proof that we hear is older than this when we hear again, or connecting has failed, Redis was away for all.
const LONG_OUTAGE: Duration = Duration::from_secs(2);

/// After such an outage, without history, time for the other nodes to subscribe again before anybody publishes: what
/// Redis delivers before a node has subscribed never reaches that node. As long as the longest backoff, and as much again for looking up a name.
const SETTLE: Duration = Duration::from_secs(2);

/// Channels named in one SUBSCRIBE.
const SUBSCRIBE_AT_ONCE: usize = 1000;

/// Keeps the subscription until `stop`.
pub(super) async fn keep(redis: &Redis, link: &Link, relay: Arc<Relay>, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    let mut heard_at = Instant::now();
    loop {
        let Err(error) = tokio::select! {
            ended = Subscription::hold(redis, link, &relay, &mut backoff, &mut heard_at) => ended,
            () = stop.cancelled() => return,
        };
        link.status.set(false);
        // Who comes and goes while there is no link is in the list of all channels when there is one again.
        for change in link.hub.interest().try_take() {
            if !change.is_new() {
                relay.forget(&change.channel().name);
            }
        }
        link.hub.all().iter().for_each(|channel| channel.set_live(false));
        let pause = backoff.next();
        warn!(retry_ms = pause.as_millis() as u64, "no link to redis: {error:#}");
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Subscription<'a> {
    redis: &'a Redis,
    relay: &'a Relay,
    connection: MultiplexedConnection,
    ears: Arc<Ears>,
    probes: u64,
}

impl<'a> Subscription<'a> {
    /// Connects, subscribes to everything wanted, and serves until something breaks.
    async fn hold(
        redis: &'a Redis,
        link: &Link,
        relay: &'a Arc<Relay>,
        backoff: &mut Backoff,
        heard_at: &mut Instant,
    ) -> anyhow::Result<Infallible> {
        let ears = Arc::new(Ears::new(relay.clone(), redis.names.probe(redis.node)));
        let config = redis.connection_config().set_push_sender({
            let ears = ears.clone();
            move |push| -> Result<(), Infallible> {
                ears.hear(push);
                Ok(())
            }
        });
        let client = Client::open(redis.info.clone())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.context("connecting")?;
        let mut this = Self { redis, relay, connection, ears, probes: 0 };
        relay.begin_subscription();
        let channels = link.hub.all();
        this.connection.subscribe(&this.ears.probe).await.context("subscribing")?;
        this.subscribe(&channels).await?;
        if link.status.has_been_up() {
            link.metrics.broker_reconnects.inc();
            if redis.retention.messages == 0 && (backoff.is_long() || heard_at.elapsed() > LONG_OUTAGE) {
                timeout(SETTLE, this.ears.deaf.notified())
                    .await
                    .map_or(Ok(()), |()| Err(anyhow!("connection lost")))?;
            }
        }
        info!(channels = channels.len(), "connected to redis");
        backoff.reset();
        link.status.set(true);
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = this.ears.deaf.notified() => bail!("connection lost"),
                changes = link.hub.interest().take() => this.change(changes).await?,
                _ = probes.tick() => *heard_at = this.probe(link).await?,
            }
        }
    }

    /// Follows channels that came and went, in order.
    async fn change(&mut self, changes: Vec<Change>) -> anyhow::Result<()> {
        for run in changes.chunk_by(|a, b| a.is_new() == b.is_new()) {
            let channels: Vec<Arc<Channel>> = run.iter().map(|change| change.channel().clone()).collect();
            if run[0].is_new() { self.subscribe(&channels).await? } else { self.unsubscribe(&channels).await? }
        }
        Ok(())
    }

    async fn subscribe(&mut self, channels: &[Arc<Channel>]) -> anyhow::Result<()> {
        for some in channels.chunks(SUBSCRIBE_AT_ONCE) {
            let rounds: Vec<u64> = some.iter().map(|channel| self.relay.hold(&channel.name)).collect();
            self.connection.subscribe(self.pubsub(some)).await.context("subscribing")?;
            for (channel, round) in some.iter().zip(rounds) {
                self.relay.subscribed(channel, round);
            }
        }
        Ok(())
    }

    async fn unsubscribe(&mut self, channels: &[Arc<Channel>]) -> anyhow::Result<()> {
        for some in channels.chunks(SUBSCRIBE_AT_ONCE) {
            self.connection.unsubscribe(self.pubsub(some)).await.context("unsubscribing")?;
            some.iter().for_each(|channel| self.relay.forget(&channel.name));
        }
        Ok(())
    }

    fn pubsub(&self, channels: &[Arc<Channel>]) -> Vec<String> {
        channels.iter().map(|channel| self.redis.names.pubsub(&channel.name)).collect()
    }

    /// Sends a probe and waits until it comes back by the subscription; returns when it was sent.
    async fn probe(&mut self, link: &Link) -> anyhow::Result<Instant> {
        self.probes += 1;
        let sent = Instant::now();
        let round_trip = async {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(&self.ears.probe).arg(self.probes);
            publish.exec_async(&mut self.connection).await.context("sending a probe")?;
            while self.ears.probed.load(Acquire) < self.probes {
                self.ears.heard_probe.notified().await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            done = timeout(PROBE_PATIENCE, round_trip) => done.context("a probe did not come back")??,
            () = self.ears.deaf.notified() => bail!("connection lost"),
        }
        link.metrics.broker_roundtrip.observe(sent.elapsed().as_secs_f64());
        Ok(sent)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.ears.closed.store(true, Release);
    }
}

/// What a connection calls for everything that arrives, in order and on its own task.
struct Ears {
    relay: Arc<Relay>,
    probe: String,
    /// The newest probe that came back.
    probed: AtomicU64,
    heard_probe: Notify,
    /// Told when the connection ends.
    deaf: Notify,
    /// A newer connection may be there: what still comes over this one must not mix with what comes over that.
    closed: AtomicBool,
}

impl Ears {
    fn new(relay: Arc<Relay>, probe: String) -> Self {
        let (heard_probe, deaf) = (Notify::new(), Notify::new());
        Self { relay, probe, probed: AtomicU64::new(0), heard_probe, deaf, closed: AtomicBool::new(false) }
    }

    fn hear(&self, push: PushInfo) {
        match push.kind {
            _ if self.closed.load(Acquire) => {}
            PushKind::Disconnection => self.deaf.notify_one(),
            PushKind::Message => self.hear_message(push.data),
            // Confirmations: whoever subscribed awaits them.
            _ => {}
        }
    }

    fn hear_message(&self, data: Vec<Value>) {
        let Ok([Value::BulkString(pubsub), Value::BulkString(payload)]) = <[Value; 2]>::try_from(data) else {
            return warn!("redis pushed a message of an unknown shape");
        };
        // Names we subscribed to are ASCII, so this one is.
        let pubsub = String::from_utf8_lossy(&pubsub);
        if pubsub == self.probe {
            // Anybody may publish there; what is no number proves nothing.
            if let Ok(number) = String::from_utf8_lossy(&payload).parse() {
                self.probed.store(number, Release);
                self.heard_probe.notify_one();
            }
        } else {
            self.relay.deliver(&pubsub, payload.into());
        }
    }
}
