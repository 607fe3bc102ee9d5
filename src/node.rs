//! A node: wiring and life. [`Node::bind`] opens the sockets and tells their addresses;
//! [`Node::run`] serves until it is told to stop, and then ends in this order: readiness off, drain
//! delay, listeners closed, sessions sent away over the drain period, inbox published, ops port
//! closed.

mod parts;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::parts::{Ended, Parts};
use crate::broker::{self, Broker, Embedded, Link, Status};
use crate::budget::{self, Budget};
use crate::client::caller::Proxies;
use crate::client::close_reason::CloseReason;
use crate::client::connection_limits::address::AddressLimits;
use crate::client::connection_limits::{
    ConnectionLimits, LimitReached, LimitSettings, descriptors,
};
use crate::client::keepalive::{Keepalive, PingSchedule};
use crate::client::origin::Origins;
use crate::client::rate::PublishLimits;
use crate::client::rejection::Rejection;
use crate::config::{Config, SlowClient, Switch};
use crate::frame::Limits;
use crate::http::connection::{BadEnds, Service};
use crate::http::context::{COLLECTORS, Context};
use crate::http::delayed_reset::DelayedResets;
use crate::http::keep_alive::KeepAlive;
use crate::http::listener::bind;
use crate::http::server::{Admission, Server};
use crate::http::{ops, public};
use crate::hub::Hub;
use crate::metrics::{LossCause, Metrics};
use crate::shutdown::Shutdown;
use crate::ws::session::Shared;
use crate::ws::shard::Shards;

/// Frames that one message may be split into: what the Autobahn Testsuite does to 4 MiB, and an
/// empty one at the end.
const MAX_FRAGMENTS: u32 = 65_537;

/// Time between comments on event streams, which keep proxies from ending a silent stream.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Time between two looks for channels that nobody needs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The last part of the grace, a quarter of it but not more than this, is the broker's, whoever has
/// not left by then.
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
        let metrics = Arc::new(Metrics::new(
            &closed,
            &Rejection::LABELS,
            &SlowClient::LABELS,
        )?);
        let (shards, sharding) =
            Shards::spawn(Handle::current().metrics().num_workers(), &metrics)?;
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
                let Config {
                    redis_tls,
                    redis_prefix,
                    retention,
                    ..
                } = &self.config;
                let broker = broker::Redis::new(&url, redis_tls.clone(), redis_prefix, *retention)?;
                self.run_with(broker, stop).await
            }
        }
    }

    /// Serves with this broker until `stop`, then drains.
    ///
    /// # Errors
    /// If a part of it panicked and it drained for that.
    pub async fn run_with(
        self,
        broker: impl Broker,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Self {
            config,
            listener,
            ops_listener,
            shards,
            mut sharding,
            metrics,
        } = self;
        let shutdown = Shutdown::default();
        let status = Status::new(metrics.clone());
        let memory = config.memory.unwrap_or_else(budget::default_limit);
        info!(bytes = memory, "memory for messages");
        let budget = Budget::new(memory, &metrics);
        let keep_idle = config.redis_url.is_none();
        let (hub, intake) = Hub::new(
            config.retention,
            keep_idle,
            config.max_channels,
            budget,
            metrics.clone(),
        );
        let hub = Arc::new(hub);
        let keepalives = [
            Keepalive::new(PingSchedule::new(config.ping_interval, config.ping_timeout)),
            Keepalive::new(PingSchedule::new(COMMENT_INTERVAL, COMMENT_INTERVAL)),
        ];
        let link = Link {
            hub: hub.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
        };
        let mut broker = tokio::spawn(broker.run(link, intake, shutdown.broker.clone()));
        let [keepalive, event_keepalive] = keepalives.clone();
        let mut parts = Parts::default();
        parts.spawn("sweep", sweep(hub.clone()));
        parts.spawn("memory watch", wake_readers(hub.clone()));
        parts.spawn("keepalive", beat(keepalive));
        parts.spawn("keepalive of event streams", beat(event_keepalive));

        let refused = |label| metrics.handshakes_refused.with_label_values(&[label]);
        let too_many = refused(LimitReached::LABEL);
        let slow = metrics
            .slow_clients
            .with_label_values(&[SlowClient::Disconnect.label()]);
        let bad_ends = BadEnds {
            timeout: refused(Rejection::TIMEOUT),
            no_http: refused(Rejection::NO_HTTP),
            slow,
        };
        let limits = ConnectionLimits::new(
            limit_settings(&config, descriptors().connections),
            metrics.clone(),
        );
        let proxies = Arc::new(Proxies::new(config.trusted_proxy.clone()));
        info!(connections = limits.most(), "public connections at most");
        let public = public::router(Context {
            shared: Arc::new(shared(&config, hub, metrics.clone(), &keepalives)),
            shards,
            limits: limits.clone(),
            proxies: proxies.clone(),
            origins: Origins::new(config.allow_origin.clone()),
            deflate: config.deflate,
            status: status.clone(),
            shutdown: shutdown.clone(),
            collecting: Semaphore::new(COLLECTORS),
        });
        let ops = ops::router(ops::Ops {
            metrics: metrics.clone(),
            status,
            shutdown: shutdown.clone(),
        });
        let resets = DelayedResets::new(descriptors().reserve);
        let keep_alive = KeepAlive::new(config.idle_timeout);
        let serve_public = Server {
            service: Service {
                router: public,
                keep_alive: keep_alive.clone(),
                stop: shutdown.listeners.clone(),
                connections: shutdown.sessions.clone(),
                counters: Some(bad_ends),
            },
            admission: Some(Admission {
                limits,
                proxies,
                too_many,
                resets,
            }),
        };
        let serving = parts.spawn("public port", serve_public.serve(listener));
        let (ops_stop, ops_connections) = (shutdown.ops.clone(), TaskTracker::new());
        let serve_ops = Server {
            service: Service {
                router: ops,
                keep_alive,
                stop: ops_stop,
                connections: ops_connections,
                counters: None,
            },
            admission: None,
        };
        let ops_serving = parts.spawn("ops port", serve_ops.serve(ops_listener));

        let outcome = tokio::select! {
            () = stop => Ok(()),
            // It never ends by itself, so this is a panic, and a node that hears nothing must not
            // look alive.
            Err(error) = &mut broker => {
                error!("broker: {error}");
                broker = tokio::spawn(async {});
                Err(anyhow::Error::new(error).context("the broker failed"))
            }
            failure = parts.failed() => Err(failure),
            // The same.
            Some(Err(error)) = sharding.join_next() => {
                error!("sessions: {error}");
                Err(anyhow::Error::new(error).context("sessions failed"))
            }
        };
        drain(&config, &shutdown, &keepalives, &metrics, serving, broker).await;
        shutdown.ops.cancel();
        let _ = ops_serving.await;
        outcome
    }
}

fn publish_limits(config: &Config) -> PublishLimits {
    PublishLimits {
        messages: config.message_rate,
        bytes: config.byte_rate,
        max_message: config.max_message as u64,
    }
}

fn limit_settings(config: &Config, descriptors: usize) -> LimitSettings {
    let publish = publish_limits(config);
    let address = AddressLimits {
        connections: config.address_connections,
        rate: config.address_rate,
        publish: !config.trusted_proxy.is_empty() && publish.any(),
    };
    LimitSettings {
        connections: config.max_connections,
        descriptors,
        address,
        publish,
    }
}

fn shared(
    config: &Config,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    keepalives: &[Arc<Keepalive>; 2],
) -> Shared {
    let [keepalive, event_keepalive] = keepalives.clone();
    Shared {
        hub,
        metrics,
        keepalive,
        event_keepalive,
        limits: Limits {
            max_message: config.max_message,
            max_fragments: MAX_FRAGMENTS,
            deflate: false,
        },
        publish: publish_limits(config),
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
    keepalives: &[Arc<Keepalive>; 2],
    metrics: &Metrics,
    serving: Ended,
    broker: tokio::task::JoinHandle<()>,
) {
    shutdown.begin();
    metrics.draining.set(1);
    sleep(config.drain_delay).await;
    let end = tokio::time::Instant::now() + config.shutdown_grace;
    shutdown.listeners.cancel();
    // Nothing is sent: it is dropped with the part.
    let _ = serving.await;
    shutdown.sessions.close();
    let sessions =
        (metrics.websocket.connections.get() + metrics.events.connections.get()).max(0) as u32;
    let period = config.drain_period.min(LEAVE_APART * sessions);
    info!(sessions, period_ms = period.as_millis() as u64, "draining");
    let leaving = async {
        join_all(keepalives.iter().map(|keepalive| keepalive.drain(period))).await;
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
        warn!(
            sessions = shutdown.sessions.len(),
            "grace is nearly over, cutting off who is left"
        );
        keepalives.iter().for_each(|keepalive| keepalive.cut_off());
    }
    shutdown.broker.cancel();
    let stop_broker = broker.abort_handle();
    match timeout_at(end, broker).await {
        Ok(result) => ended("broker", result),
        Err(_) => {
            stop_broker.abort();
            let messages = metrics.inbox_depth.get().max(0) as u64;
            metrics.lost(LossCause::Shutdown, messages);
            error!(
                messages,
                "grace is over before the broker took everything: what was not published is lost"
            );
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
        hub.make_room();
    }
}

/// Makes room for sessions that found none in the memory budget, and lets them read again once
/// there is some.
async fn wake_readers(hub: Arc<Hub>) {
    loop {
        hub.budget().changed().await;
        hub.make_room();
        if hub.budget().has_room_now() {
            hub.inbox().wake_parked();
        }
    }
}

async fn beat(keepalive: Arc<Keepalive>) {
    keepalive.run().await;
}

/// A part of the node has ended as it was told to, or panicked.
fn ended(part: &str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        error!("{part}: {error}");
    }
}
