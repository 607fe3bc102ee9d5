//! A subscriber: one connection for the subscriptions to one server, kept for as long as that has
//! channels. It owns which of them this node hears, and proves that it hears: a probe goes through
//! Redis to itself every second, and if one does not come back the connection is made anew. A
//! socket that looks fine and brings nothing is how such systems fail in silence.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::super::Link;
use super::pushes::Pushes;
use super::receiver::Receivers;
use super::server::{self, Server};
use super::warnings::Trouble;
use super::{Backoff, Redis, fitness};
use crate::hub::{Change, Channel};

/// Time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A probe that takes longer means that the link is down.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// If the last proof that we hear is older than this when we hear again, or connecting has failed,
/// Redis was away for all.
const LONG_OUTAGE: Duration = Duration::from_secs(2);

/// After such an outage, without history, time for the other nodes to subscribe again before
/// anybody publishes: what Redis delivers before a node has subscribed never reaches that node. As
/// long as the longest backoff, and as much again for looking up a name.
const SETTLE: Duration = Duration::from_secs(2);

/// Probes after which channels are asked for again that were forbidden: somebody may have changed
/// what the user may do.
const FORBIDDEN_PROBES: u64 = 5;

/// Channels named in one SUBSCRIBE.
const SUBSCRIBE_AT_ONCE: usize = 1000;

/// Keeps the subscriber until its server has no channels any more. `told` are channels that come and go.
pub(super) async fn keep(
    redis: &Redis,
    link: &Link,
    receivers: &Arc<Receivers>,
    server: Arc<Server>,
    mut told: UnboundedReceiver<Change>,
) {
    let mut backoff = Backoff::default();
    // A server that takes over from another was away, too: for as long as the nodes do not know of
    // each other.
    let mut heard_at = (!link.status.has_been_up()).then(Instant::now);
    loop {
        let ended = tokio::select! {
            ended = Subscriber::hold(redis, link, receivers, &server, &mut told, &mut backoff, &mut heard_at) => Some(ended),
            () = server.gone.cancelled() => None,
        };
        server.up.send_replace(false);
        link.status.set(redis.topology.map().is_up());
        // Who comes and goes while there is no subscriber is in the list of all channels when there is
        // one again.
        while told.try_recv().is_ok() {}
        let Some(Err(error)) = ended else { return };
        channels(redis, link, &server)
            .iter()
            .for_each(|channel| receivers.unsubscribed(channel));
        redis.topology.doubt();
        let pause = backoff.next();
        let server_name = server.name.as_str();
        link.status
            .explain(fitness::reason(&error).map(|why| format!("{server_name}: {why}")));
        warn!(
            server = server_name,
            retry_ms = pause.as_millis() as u64,
            "no link to redis: {error:#}"
        );
        tokio::select! {
            () = sleep(pause) => {}
            () = server.gone.cancelled() => return,
        }
    }
}

/// All channels that are heard from a server.
fn channels(redis: &Redis, link: &Link, server: &Arc<Server>) -> Vec<Arc<Channel>> {
    let map = redis.topology.map();
    let mut channels = link.hub.all();
    channels.retain(|channel| {
        map.owner(&channel.name)
            .is_some_and(|owner| Arc::ptr_eq(owner, server))
    });
    channels
}

struct Subscriber<'a> {
    redis: &'a Redis,
    link: &'a Link,
    receivers: &'a Arc<Receivers>,
    server: &'a Arc<Server>,
    connection: MultiplexedConnection,
    pushes: Arc<Pushes>,
    probes: u64,
    /// Channels that the server says it does not have, although the map may say so.
    refused: Vec<Arc<Channel>>,
    /// Channels that the node's Redis user must not subscribe to, or not yet.
    forbidden: Vec<Arc<Channel>>,
}

impl<'a> Subscriber<'a> {
    /// Connects, subscribes to everything wanted, and serves until something breaks.
    async fn hold(
        redis: &'a Redis,
        link: &'a Link,
        receivers: &'a Arc<Receivers>,
        server: &'a Arc<Server>,
        told: &mut UnboundedReceiver<Change>,
        backoff: &mut Backoff,
        heard_at: &mut Option<Instant>,
    ) -> anyhow::Result<Infallible> {
        let pushes = Arc::new(Pushes::new(
            receivers.clone(),
            redis.probe(server)?,
            server.round_trips.clone(),
        ));
        let config = server::config().set_push_sender({
            let pushes = pushes.clone();
            move |push| -> Result<(), Infallible> {
                pushes.hear(push);
                Ok(())
            }
        });
        let mut connection = server.connect(&config).await?;
        fitness::check(redis, &mut connection, &pushes.probe).await?;
        let mut this = Self {
            redis,
            link,
            receivers,
            server,
            connection,
            pushes,
            probes: 0,
            refused: Vec::new(),
            forbidden: Vec::new(),
        };
        server.begin_subscription();
        let channels = channels(redis, link, server);
        let probe = this.pushes.probe.clone();
        this.ask("SUBSCRIBE", vec![probe])
            .await?
            .into_iter()
            .collect::<RedisResult<Vec<_>>>()
            .context("subscribing")?;
        server
            .round_trips
            .subscribed(redis.publish_command(), this.pushes.probe.clone());
        this.subscribe(&channels).await?;
        if link.status.has_been_up() {
            link.metrics.broker_reconnects.inc();
            let was_away = heard_at.is_none_or(|at| at.elapsed() > LONG_OUTAGE);
            if redis.retention.messages == 0 && (backoff.is_long() || was_away) {
                timeout(SETTLE, this.pushes.deaf.notified())
                    .await
                    .map_or(Ok(()), |()| Err(anyhow!("connection lost")))?;
            }
        }
        info!(
            server = server.name,
            channels = channels.len(),
            "connected to redis"
        );
        backoff.reset();
        server.up.send_replace(true);
        link.status.set(redis.topology.map().is_up());
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = Vec::new();
        loop {
            tokio::select! {
                () = this.pushes.deaf.notified() => bail!("connection lost"),
                () = this.pushes.robbed.notified() => this.look_for_robbed(),
                1.. = told.recv_many(&mut changes, usize::MAX) => this.change(std::mem::take(&mut changes)).await?,
                _ = probes.tick() => *heard_at = Some(this.probe().await?),
            }
        }
    }

    /// The server has given channels away: to another subscriber, if there will be a new map; or it has
    /// them back already.
    fn look_for_robbed(&mut self) {
        let names = self.pushes.take_stolen();
        let channels = names
            .iter()
            .filter_map(|name| self.link.hub.find(&self.redis.names.channel(name)?));
        self.refused.extend(channels);
        self.redis.topology.doubt();
    }

    /// Follows channels that came and went, in order.
    async fn change(&mut self, changes: Vec<Change>) -> anyhow::Result<()> {
        for run in changes.chunk_by(|a, b| a.is_new() == b.is_new()) {
            let channels: Vec<Arc<Channel>> =
                run.iter().map(|change| change.channel().clone()).collect();
            if run[0].is_new() {
                self.subscribe(&channels).await?
            } else {
                self.unsubscribe(&channels).await?
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, channels: &[Arc<Channel>]) -> anyhow::Result<()> {
        for some in channels.chunks(SUBSCRIBE_AT_ONCE) {
            let rounds: Vec<u64> = some
                .iter()
                .map(|channel| self.receivers.hold(channel))
                .collect();
            let answers = self.ask("SUBSCRIBE", self.pubsub(some)).await?;
            for ((channel, round), answer) in some.iter().zip(rounds).zip(answers) {
                match answer {
                    Ok(_) => self.receivers.subscribed(channel, round),
                    Err(error) if self.redis.topology.is_cluster() && is_elsewhere(&error) => {
                        self.refused.push(channel.clone());
                        self.redis.topology.doubt();
                    }
                    Err(error) if is_forbidden(&error) => {
                        if self
                            .redis
                            .warnings
                            .allows(Trouble::Forbidden, &channel.name)
                        {
                            let channel = channel.name.as_str();
                            warn!(
                                channel,
                                "nobody can come to this channel: redis does not let us subscribe: {error}"
                            );
                        }
                        self.forbidden.push(channel.clone());
                    }
                    Err(error) => return Err(error).context("subscribing"),
                }
            }
        }
        Ok(())
    }

    async fn unsubscribe(&mut self, channels: &[Arc<Channel>]) -> anyhow::Result<()> {
        for some in channels.chunks(SUBSCRIBE_AT_ONCE) {
            let names = self.pubsub(some);
            self.pushes.expect_to_leave(&names);
            // Who has been robbed of a channel and does not know yet may leave it all the same.
            self.ask("UNSUBSCRIBE", names)
                .await?
                .into_iter()
                .find_map(|answer| answer.err().filter(|it| !is_elsewhere(it)))
                .map_or(Ok(()), |error| Err(error).context("unsubscribing"))?;
        }
        Ok(())
    }

    /// Asks for what concerns these pub/sub channels; returns an answer for each.
    async fn ask(
        &mut self,
        command: &str,
        names: Vec<String>,
    ) -> anyhow::Result<Vec<RedisResult<Value>>> {
        let is_cluster = self.redis.topology.is_cluster();
        if !is_cluster {
            let asked = match command {
                "SUBSCRIBE" => self.connection.subscribe(&names).await,
                _ => self.connection.unsubscribe(&names).await,
            };
            match asked {
                // One that is forbidden, and Redis does all or nothing.
                Err(error) if is_forbidden(&error) => {}
                asked => {
                    asked.with_context(|| command.to_lowercase())?;
                    return Ok(names.iter().map(|_| Ok(Value::Okay)).collect());
                }
            }
        }
        // One by one; in a Cluster, because a command could name only channels of one slot.
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let command = if is_cluster {
            format!("S{command}")
        } else {
            command.to_owned()
        };
        for name in names {
            pipeline.cmd(&command).arg(name);
        }
        self.pushes.asking.store(true, Release);
        let answers = pipeline.query_async(&mut self.connection).await;
        self.pushes.asking.store(false, Release);
        answers.with_context(|| command.to_lowercase())
    }

    fn pubsub(&self, channels: &[Arc<Channel>]) -> Vec<String> {
        channels
            .iter()
            .map(|channel| self.redis.names.pubsub(&channel.name))
            .collect()
    }

    /// Sends a probe and waits until it comes back by the subscription; returns when it was sent.
    /// And asks again for what was refused: the server may only have been the last to know that it
    /// has it.
    async fn probe(&mut self) -> anyhow::Result<Instant> {
        self.probes += 1;
        let sent = Instant::now();
        let round_trip = async {
            // Over another connection, which is the one that reads histories: see [`Pushes::hear`].
            let mut connection = self.server.connection().await?;
            let mut publish = redis::cmd(self.redis.publish_command());
            publish.arg(&self.pushes.probe).arg(self.probes);
            if publish.exec_async(&mut connection).await.is_err() {
                // Its end alone does not make this node deaf.
                self.server.forget_connection().await;
                connection = self.server.connection().await?;
                publish
                    .exec_async(&mut connection)
                    .await
                    .context("sending a probe")?;
            }
            while self.pushes.probed.load(Acquire) < self.probes {
                self.pushes.heard_probe.notified().await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            done = timeout(PROBE_PATIENCE, round_trip) => done.context("a probe did not come back")??,
            () = self.pushes.deaf.notified() => bail!("connection lost"),
        }
        self.link
            .metrics
            .broker_roundtrip
            .observe(sent.elapsed().as_secs_f64());
        fitness::check_again(self.redis, self.server, &self.pushes.probe).await?;
        ensure!(
            !self.server.round_trips.is_missing(PROBE_PATIENCE),
            "what is published is not heard: this address leads to another server than before"
        );
        if self.probes.is_multiple_of(FORBIDDEN_PROBES) {
            self.refused.append(&mut self.forbidden);
        }
        if !self.refused.is_empty() {
            let refused = std::mem::take(&mut self.refused);
            let addresses: HashSet<usize> = refused
                .iter()
                .map(|channel| Arc::as_ptr(channel).addr())
                .collect();
            let mut wanted = channels(self.redis, self.link, self.server);
            wanted.retain(|channel| addresses.contains(&Arc::as_ptr(channel).addr()));
            self.subscribe(&wanted).await?;
        }
        Ok(sent)
    }
}

/// Whether a node of a Cluster says that it does not have what was asked for, or not at the moment.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
    )
}

/// Whether the node's Redis user must not do this. If it is about one channel, the others are not
/// concerned.
fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

impl Drop for Subscriber<'_> {
    fn drop(&mut self) {
        self.pushes.closed.store(true, Release);
        self.server.round_trips.unsubscribed();
    }
}
