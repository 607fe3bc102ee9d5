//! A subscriber: one connection for the subscriptions to one server, kept for as long as that has
//! channels. It owns which of them this node receives, and proves that it receives: a probe goes
//! through Redis to itself every second, and if one does not come back the connection is made anew.
//! A socket that looks fine and brings nothing is how such systems fail in silence.

mod ask;
mod probe;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::super::Link;
use super::pushes::Pushes;
use super::receiver::Receiver;
use super::receivers::Receivers;
use super::server::{self, Server};
use super::topology::is_elsewhere;
use super::warnings::Trouble;
use super::{Backoff, Redis, fitness};

/// Time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// If the last proof that we receive is older than this when we receive again, or connecting has
/// failed, Redis was away for all.
const LONG_OUTAGE: Duration = Duration::from_secs(2);

/// After such an outage, without history, time for the other nodes to subscribe again before
/// anybody publishes: what Redis delivers before a node has subscribed never reaches that node. As
/// long as the longest backoff, and as much again for looking up a name.
const SETTLE: Duration = Duration::from_secs(2);

/// Channels named in one SUBSCRIBE.
const SUBSCRIBE_AT_ONCE: usize = 1000;

/// A channel comes or goes.
pub(super) enum Change {
    Subscribe(Arc<Receiver>),
    Unsubscribe(Arc<Receiver>),
}

/// The parts that a subscriber needs, and keeps across its connections.
pub(super) struct Keeper<'a> {
    redis: &'a Redis,
    link: &'a Link,
    receivers: &'a Arc<Receivers>,
    server: Arc<Server>,
    changes: UnboundedReceiver<Change>,
    backoff: Backoff,
    /// When a probe that came back last was sent. `None` until then if the node has been up before:
    /// a server that takes over from another was away, too, for as long as the nodes do not know of
    /// each other.
    proven_at: Option<Instant>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        redis: &'a Redis,
        link: &'a Link,
        receivers: &'a Arc<Receivers>,
        server: Arc<Server>,
        changes: UnboundedReceiver<Change>,
    ) -> Self {
        Self {
            redis,
            link,
            receivers,
            server,
            changes,
            backoff: Backoff::default(),
            proven_at: (!link.status.has_been_up()).then(Instant::now),
        }
    }

    /// Keeps a connection until the server has no channels any more.
    pub(super) async fn run(mut self) {
        let gone = self.server.gone.clone();
        loop {
            // 1. Serve until something breaks.
            let ended = tokio::select! {
                ended = self.serve() => Some(ended),
                () = gone.cancelled() => None,
            };
            self.set_up(false);
            // Channels that come and go meanwhile are in the list of all when there is a connection
            // again.
            while self.changes.try_recv().is_ok() {}
            let Some(Err(error)) = ended else { return };
            // 2. Nothing is received for now.
            for receiver in self.receivers_here() {
                receiver.unsubscribed();
            }
            self.redis.topology.doubt();
            // 3. Pause, and try again.
            let pause = self.backoff.next();
            self.report(&error, pause);
            tokio::select! {
                () = sleep(pause) => {}
                () = gone.cancelled() => return,
            }
        }
    }

    fn report(&self, error: &anyhow::Error, pause: Duration) {
        let name = self.server.name.as_str();
        let reason = fitness::reason(error).map(|why| format!("{name}: {why}"));
        self.link.status.explain(reason);
        warn!(
            server = name,
            retry_ms = pause.as_millis() as u64,
            "no link to redis: {error:#}"
        );
    }

    fn set_up(&self, up: bool) {
        self.server.up.send_replace(up);
        self.link.status.set(self.redis.topology.map().is_up());
    }

    /// The receivers of all channels that this server has.
    fn receivers_here(&self) -> Vec<Arc<Receiver>> {
        let map = self.redis.topology.map();
        let mut receivers = self.receivers.all();
        receivers.retain(|receiver| {
            map.owner(&receiver.channel.name)
                .is_some_and(|owner| Arc::ptr_eq(owner, &self.server))
        });
        receivers
    }

    /// Connects, subscribes to all channels, and serves until something breaks.
    async fn serve(&mut self) -> anyhow::Result<Infallible> {
        // 1. Connect to a server that can be the broker.
        let mut subscriber = self.connect().await?;
        // 2. Subscribe: to probes first, so that they prove everything that comes later.
        self.server.begin_subscription();
        let receivers = self.receivers_here();
        subscriber.subscribe_to_probes().await?;
        subscriber.subscribe(&receivers).await?;
        // 3. Let the others subscribe, too, where nobody keeps what they miss.
        if self.link.status.has_been_up() {
            self.link.metrics.broker_reconnects.inc();
            self.wait_for_others(&subscriber).await?;
        }
        info!(
            server = self.server.name,
            channels = receivers.len(),
            "connected to redis"
        );
        self.backoff.reset();
        self.set_up(true);
        // 4. Follow channels that come and go, and prove every second that messages come.
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = Vec::new();
        loop {
            tokio::select! {
                () = subscriber.pushes.disconnected.notified() => bail!("connection lost"),
                () = subscriber.pushes.unsubscribed.notified() => subscriber.look_for_given_away(self.receivers),
                1.. = self.changes.recv_many(&mut changes, usize::MAX) => subscriber.change(&std::mem::take(&mut changes)).await?,
                _ = probes.tick() => {
                    self.proven_at = Some(subscriber.probe().await?);
                    subscriber.try_refused_again(|| self.receivers_here()).await?;
                }
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<Subscriber<'a>> {
        let (redis, server) = (self.redis, &self.server);
        let pushes = Arc::new(Pushes::new(
            self.receivers.clone(),
            redis.probe(server)?,
            server.round_trips.clone(),
        ));
        let receives = pushes.clone();
        let config = server::config().set_push_sender(move |push| -> Result<(), Infallible> {
            receives.receive(push);
            Ok(())
        });
        let mut connection = server.connect(&config).await?;
        fitness::check(redis, &mut connection, &pushes.probe).await?;
        Ok(Subscriber {
            redis,
            link: self.link,
            server: server.clone(),
            connection,
            pushes,
            probes: 0,
            refused: Vec::new(),
            forbidden: Vec::new(),
        })
    }

    /// Without history, gives the other nodes time to subscribe again after a long outage.
    async fn wait_for_others(&self, subscriber: &Subscriber<'_>) -> anyhow::Result<()> {
        let was_away = self
            .proven_at
            .is_none_or(|proven_at| proven_at.elapsed() > LONG_OUTAGE);
        if self.redis.retention.messages > 0 || !(self.backoff.is_long() || was_away) {
            return Ok(());
        }
        match timeout(SETTLE, subscriber.pushes.disconnected.notified()).await {
            Ok(()) => Err(anyhow!("connection lost")),
            Err(_) => Ok(()),
        }
    }
}

/// One connection, and what is subscribed over it.
struct Subscriber<'a> {
    redis: &'a Redis,
    link: &'a Link,
    server: Arc<Server>,
    connection: MultiplexedConnection,
    pushes: Arc<Pushes>,
    /// Probes sent so far.
    probes: u64,
    /// Channels that the server does not have by its own answer, whatever the map is.
    refused: Vec<Arc<Receiver>>,
    /// Channels that the node's Redis user must not subscribe to, or not yet.
    forbidden: Vec<Arc<Receiver>>,
}

impl Subscriber<'_> {
    /// Follows channels that came and went, in order.
    async fn change(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        for run in changes.chunk_by(|a, b| a.is_subscribe() == b.is_subscribe()) {
            let receivers: Vec<Arc<Receiver>> =
                run.iter().map(|change| change.receiver().clone()).collect();
            if run[0].is_subscribe() {
                self.subscribe(&receivers).await?;
            } else {
                self.unsubscribe(&receivers).await?;
            }
        }
        Ok(())
    }

    async fn subscribe_to_probes(&mut self) -> anyhow::Result<()> {
        let probe = self.pushes.probe.clone();
        let answers = self.ask("SUBSCRIBE", vec![probe.clone()]).await?;
        answers
            .into_iter()
            .collect::<RedisResult<Vec<_>>>()
            .context("subscribing")?;
        let command = self.redis.publish_command();
        self.server.round_trips.subscribed(command, probe);
        Ok(())
    }

    async fn subscribe(&mut self, receivers: &[Arc<Receiver>]) -> anyhow::Result<()> {
        for some in receivers.chunks(SUBSCRIBE_AT_ONCE) {
            // Before anything can come over the new subscription.
            let rounds: Vec<u64> = some.iter().map(|receiver| receiver.hold()).collect();
            let answers = self.ask("SUBSCRIBE", self.names(some)).await?;
            for ((receiver, round), answer) in some.iter().zip(rounds).zip(answers) {
                match answer {
                    Ok(_) => receiver.subscribed(round),
                    Err(error) => self.not_subscribed(receiver, error)?,
                }
            }
        }
        Ok(())
    }

    /// The server has refused a subscription. It is tried again where that may help.
    fn not_subscribed(
        &mut self,
        receiver: &Arc<Receiver>,
        error: RedisError,
    ) -> anyhow::Result<()> {
        if self.redis.topology.is_cluster() && is_elsewhere(&error) {
            self.refused.push(receiver.clone());
            self.redis.topology.doubt();
            return Ok(());
        }
        if !is_forbidden(&error) {
            return Err(error).context("subscribing");
        }
        let name = &receiver.channel.name;
        if self.redis.warnings.allows(Trouble::Forbidden, name) {
            warn!(
                channel = name.as_str(),
                "no client can join this channel: redis does not let us subscribe: {error}"
            );
        }
        self.forbidden.push(receiver.clone());
        Ok(())
    }

    async fn unsubscribe(&mut self, receivers: &[Arc<Receiver>]) -> anyhow::Result<()> {
        for some in receivers.chunks(SUBSCRIBE_AT_ONCE) {
            let names = self.names(some);
            self.pushes.expect_to_leave(&names);
            for answer in self.ask("UNSUBSCRIBE", names).await? {
                match answer {
                    // The server has given the channel away, and we do not know yet.
                    Err(error) if is_elsewhere(&error) => {}
                    answer => {
                        answer.context("unsubscribing")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The server has given channels away: to another subscriber, if there will be a new map; or it
    /// has them back already.
    fn look_for_given_away(&mut self, receivers: &Receivers) {
        let names = self.pushes.take_given_away();
        self.refused
            .extend(names.iter().filter_map(|name| receivers.of_pubsub(name)));
        self.redis.topology.doubt();
    }
}

impl Change {
    fn is_subscribe(&self) -> bool {
        matches!(self, Self::Subscribe(_))
    }

    fn receiver(&self) -> &Arc<Receiver> {
        match self {
            Self::Subscribe(receiver) | Self::Unsubscribe(receiver) => receiver,
        }
    }
}

/// Whether the node's Redis user must not do this. If it is about one channel, the others are not
/// concerned.
fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

impl Drop for Subscriber<'_> {
    fn drop(&mut self) {
        self.pushes.close();
        self.server.round_trips.unsubscribed();
    }
}
