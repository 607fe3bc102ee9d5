//! A node: wiring and life. [`Node::bind`] opens the sockets and tells their addresses; [`Node::run`] serves until it is
//! told to stop, and then ends in this order: readiness off, drain delay, listeners closed, sessions sent away over the
//! drain period, inbox published, ops port closed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::broker::{self, Broker, Embedded, Link, Status};
use crate::config::{Config, SlowClient, Switch};
use crate::http::listen::{Unheard, bind, serve};
use crate::http::{ops, public};
use crate::hub::Hub;
use crate::metrics::{LossCause, Metrics};
use crate::shutdown::Shutdown;
use crate::ws::close::CloseReason;
use crate::ws::frame::Limits;
use crate::ws::gate::Gate;
use crate::ws::handshake::{Door, Refusal};
use crate::ws::pulse::{Pulse, Rhythm};
use crate::ws::session::Shared;
use crate::ws::shard::Shards;

/// Frames that one message may be split into: what the Autobahn Testsuite does to 4 MiB, and an empty one at the end.
const MAX_FRAGMENTS: u32 = 65_537;

/// Time between two looks for channels that nobody needs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The last part of the grace, a quarter of it but not more than this, is the broker's, whoever has not left by then.
const BROKER_SHARE: Duration = Duration::from_secs(5);

/// While draining, sessions leave at most this far apart: a few do not take the whole drain period.
const LEAVE_APART: Duration = Duration::from_millis(100);

/// A node with open sockets.
#[derive(Debug)]
pub struct Node {
    config: Config,
    listener: TcpListener,
    ops_listener: TcpListener,
    shards: Arc<Shards>,
    sharding: JoinSet<Infallible>,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Opens both ports.
    ///
    /// # Errors
    /// If one of them cannot be opened, or no poll set is to be had.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let closed = CloseReason::ALL.map(CloseReason::label);
        let metrics = Arc::new(Metrics::new(&closed, &Refusal::LABELS, &SlowClient::LABELS)?);
        let (shards, sharding) = Shards::spawn(Handle::current().metrics().num_workers(), &metrics)?;
        Ok(Self {
            listener: bind(config.listen)?,
            ops_listener: bind(config.ops_listen)?,
            shards: Arc::new(shards),
            sharding,
            metrics,
            config,
        })
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// If the socket does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where operators look.
    ///
    /// # Errors
    /// If the socket does not say.
    pub fn ops_address(&self) -> std::io::Result<SocketAddr> {
        self.ops_listener.local_addr()
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// If the broker's settings cannot be used, or a part of it panicked and it drained for that.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        match self.config.redis_url.clone() {
            None => self.run_with(Embedded::default(), stop).await,
            Some(url) => {
                let broker = broker::Redis::new(&url, &self.config.redis_prefix, self.config.retention)?;
                self.run_with(broker, stop).await
            }
        }
    }

    /// Serves with this broker until `stop`, then drains.
    ///
    /// # Errors
    /// If a part of it panicked and it drained for that.
    pub async fn run_with(self, broker: impl Broker, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, listener, ops_listener, shards, mut sharding, metrics } = self;
        let shutdown = Shutdown::default();
        let status = Status::new(metrics.clone());
        let hub = Arc::new(Hub::new(config.retention, config.redis_url.is_none(), metrics.clone()));
        let pulse = Pulse::new(Rhythm::new(config.ping_interval, config.ping_timeout));
        let link = Link { hub: hub.clone(), metrics: metrics.clone(), status: status.clone() };
        let mut broker = tokio::spawn(broker.run(link, shutdown.broker.clone()));
        let helpers = [tokio::spawn(sweep(hub.clone())), tokio::spawn(beat(pulse.clone()))];

        let refused = |label| metrics.handshakes_refused.with_label_values(&[label]);
        let unheard = Unheard { timeout: refused(Refusal::TIMEOUT), no_http: refused(Refusal::NO_HTTP) };
        let public = public::router(public::Public {
            door: Door {
                shared: Arc::new(shared(&config, hub, metrics.clone(), pulse.clone())),
                shards,
                gate: Gate::new(config.max_connections, config.max_connections_per_ip, metrics.clone()),
                allow_origin: config.allow_origin.clone(),
                shutdown: shutdown.clone(),
            },
            status: status.clone(),
            trusted_proxy: config.trusted_proxy.clone(),
        });
        let ops = ops::router(ops::Ops { metrics: metrics.clone(), status, shutdown: shutdown.clone() });
        let serving =
            tokio::spawn(serve(listener, public, Some(unheard), shutdown.listeners.clone(), shutdown.sessions.clone()));
        let ops_connections = tokio_util::task::TaskTracker::new();
        let ops_serving = tokio::spawn(serve(ops_listener, ops, None, shutdown.ops.clone(), ops_connections));

        let outcome = tokio::select! {
            () = stop => Ok(()),
            // It never ends by itself, so this is a panic, and a node that hears nothing must not look alive.
            Err(error) = &mut broker => {
                error!("broker: {error}");
                broker = tokio::spawn(async {});
                Err(anyhow::Error::new(error).context("the broker failed"))
            }
            // The same.
            Some(Err(error)) = sharding.join_next() => {
                error!("sessions: {error}");
                Err(anyhow::Error::new(error).context("sessions failed"))
            }
        };
        drain(&config, &shutdown, &pulse, &metrics, serving, broker).await;
        shutdown.ops.cancel();
        ended("ops port", ops_serving.await);
        helpers.iter().for_each(tokio::task::JoinHandle::abort);
        outcome
    }
}

fn shared(config: &Config, hub: Arc<Hub>, metrics: Arc<Metrics>, pulse: Arc<Pulse>) -> Shared {
    Shared {
        hub,
        metrics,
        pulse,
        limits: Limits { max_message: config.max_message, max_fragments: MAX_FRAGMENTS, deflate: false },
        message_rate: config.message_rate,
        slow_client: config.slow_client,
        node: rand::random(),
        senders: AtomicU32::new(1),
        log_messages: match config.log_messages {
            Switch::On => true,
            Switch::Off => false,
            Switch::Auto => std::io::IsTerminal::is_terminal(&std::io::stderr()),
        },
    }
}

/// Everything from the stop signal to the last published message.
async fn drain(
    config: &Config,
    shutdown: &Shutdown,
    pulse: &Pulse,
    metrics: &Metrics,
    serving: tokio::task::JoinHandle<()>,
    broker: tokio::task::JoinHandle<()>,
) {
    shutdown.begin();
    metrics.draining.set(1);
    sleep(config.drain_delay).await;
    let end = tokio::time::Instant::now() + config.shutdown_grace;
    shutdown.listeners.cancel();
    ended("public port", serving.await);
    shutdown.sessions.close();
    let sessions = (metrics.websocket.connections.get() + metrics.events.connections.get()).max(0) as u32;
    let period = config.drain_period.min(LEAVE_APART * sessions);
    info!(sessions, period_ms = period.as_millis() as u64, "draining");
    let leaving = async {
        pulse.send_away(period).await;
        shutdown.sessions.wait().await;
    };
    let all_left = timeout_at(end - BROKER_SHARE.min(config.shutdown_grace / 4), async {
        tokio::select! {
            () = leaving => {}
            // They may all have left before the period is over.
            () = shutdown.sessions.wait() => {}
        }
    });
    if all_left.await.is_err() {
        warn!(sessions = shutdown.sessions.len(), "grace is nearly over, cutting off who is left");
        pulse.cut_off();
    }
    shutdown.broker.cancel();
    let stop_broker = broker.abort_handle();
    match timeout_at(end, broker).await {
        Ok(result) => ended("broker", result),
        Err(_) => {
            stop_broker.abort();
            let messages = metrics.inbox_depth.get().max(0) as u64;
            metrics.lost(LossCause::Shutdown, messages);
            error!(messages, "grace is over before the broker took everything: what was not published is lost");
        }
    }
    info!("drained");
}

async fn sweep(hub: Arc<Hub>) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        hub.sweep(Instant::now());
    }
}

async fn beat(pulse: Arc<Pulse>) {
    pulse.beat().await;
}

/// A part of the node has ended as it was told to, or panicked.
fn ended(part: &str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        error!("{part}: {error}");
    }
}
