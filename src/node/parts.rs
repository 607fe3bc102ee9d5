//! The parts of a node, made from its settings, and the tasks and ports made from the parts.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;
use tracing::info;

use super::supervisor::Supervisor;
use crate::broker::{Link, Status};
use crate::budget::{self, Budget};
use crate::client::caller::Proxies;
use crate::client::connection_limits::address::AddressLimits;
use crate::client::connection_limits::{
    ConnectionLimits, LimitReached, LimitSettings, descriptors,
};
use crate::client::keepalive::{Keepalive, PingSchedule};
use crate::client::origin::Origins;
use crate::client::rate::PublishLimits;
use crate::client::rejection::Rejection;
use crate::config::{Config, SlowClient};
use crate::frame::Limits;
use crate::http::connection::{BadEnds, Service};
use crate::http::context::{COLLECTORS, Context};
use crate::http::delayed_reset::DelayedResets;
use crate::http::keep_alive::KeepAlive;
use crate::http::server::{Admission, Server};
use crate::http::{ops, public};
use crate::hub::{Hub, Intake};
use crate::metrics::{Counter, Metrics};
use crate::shutdown::Shutdown;
use crate::ws::session::Shared;
use crate::ws::shard::Shards;

/// Frames that one message may be split into: what the Autobahn Testsuite does to 4 MiB, and an
/// empty one at the end.
const MAX_FRAGMENTS: u32 = 65_537;

/// Time between comments on event streams. They keep proxies from ending a silent stream.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Time between two looks for channels without clients.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The parts that the tasks and ports of a node share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: Shutdown,
    pub(super) keepalives: Keepalives,
    hub: Arc<Hub>,
    status: Arc<Status>,
}

/// The keepalives of both kinds of sessions.
#[derive(Clone, Debug)]
pub(super) struct Keepalives {
    pub(super) websocket: Arc<Keepalive>,
    pub(super) events: Arc<Keepalive>,
}

impl Keepalives {
    fn new(config: &Config) -> Self {
        let pings = PingSchedule::new(
            config.keepalive.ping_interval,
            config.keepalive.ping_timeout,
        );
        let comments = PingSchedule::new(COMMENT_INTERVAL, COMMENT_INTERVAL);
        Self {
            websocket: Keepalive::new(pings),
            events: Keepalive::new(comments),
        }
    }

    /// Ends all sessions at once.
    pub(super) fn cut_off(&self) {
        self.websocket.cut_off();
        self.events.cut_off();
    }
}

impl Parts {
    /// The parts, and what the broker takes from the hub.
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> (Self, Intake) {
        let memory = config.limits.memory.unwrap_or_else(budget::default_limit);
        info!(bytes = memory, "memory for messages");
        // Without Redis, only this process has the histories of channels without clients.
        let keep_idle = config.redis.is_none();
        let (hub, intake) = Hub::new(
            config.retention,
            keep_idle,
            config.limits.max_channels,
            Budget::new(memory, &metrics),
            metrics.clone(),
        );
        let parts = Self {
            hub: Arc::new(hub),
            status: Status::new(metrics.clone()),
            keepalives: Keepalives::new(config),
            shutdown: Shutdown::default(),
            metrics,
        };
        (parts, intake)
    }

    /// The parts of the node that the broker uses.
    pub(super) fn link(&self) -> Link {
        Link {
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            status: self.status.clone(),
        }
    }

    /// Begins the tasks that belong to no connection.
    pub(super) fn spawn_upkeep(&self, supervisor: &mut Supervisor) {
        let Keepalives { websocket, events } = self.keepalives.clone();
        // Without the first two, memory would fill unnoticed. Without the others, dead clients would
        // stay and a drain could close nobody.
        supervisor.spawn("sweep", sweep(self.hub.clone()));
        supervisor.spawn("memory watch", wake_readers(self.hub.clone()));
        supervisor.spawn("keepalive", async move { websocket.run().await });
        supervisor.spawn("keepalive of event streams", async move {
            events.run().await;
        });
    }

    /// The public port.
    pub(super) fn public_server(&self, config: &Config, shards: Arc<Shards>) -> Server {
        let descriptors = descriptors();
        let settings = limit_settings(config, descriptors.connections);
        let limits = ConnectionLimits::new(settings, self.metrics.clone());
        info!(connections = limits.most(), "public connections at most");
        let proxies = Arc::new(Proxies::new(config.network.trusted_proxies.clone()));
        let context = Context {
            shared: Arc::new(self.shared(config)),
            shards,
            limits: limits.clone(),
            proxies: proxies.clone(),
            origins: Origins::new(config.limits.allow_origin.clone()),
            deflate: config.limits.deflate,
            status: self.status.clone(),
            shutdown: self.shutdown.clone(),
            collecting: Semaphore::new(COLLECTORS),
        };
        Server {
            service: Service {
                router: public::router(context),
                keep_alive: KeepAlive::new(config.keepalive.idle_timeout),
                stop: self.shutdown.listeners.clone(),
                // Among the sessions, because any of them may become one.
                connections: self.shutdown.sessions.clone(),
                counters: Some(self.bad_ends()),
            },
            admission: Some(Admission {
                limits,
                proxies,
                too_many: self.rejected(LimitReached::LABEL),
                resets: DelayedResets::new(descriptors.reserve),
            }),
        }
    }

    /// The ops port, which serves until everything else has ended.
    pub(super) fn ops_server(&self, config: &Config) -> Server {
        let router = ops::router(ops::Ops {
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            shutdown: self.shutdown.clone(),
        });
        Server {
            service: Service {
                router,
                keep_alive: KeepAlive::new(config.keepalive.idle_timeout),
                stop: self.shutdown.ops.clone(),
                // Not among the sessions, because the drain does not wait for scrapes.
                connections: TaskTracker::new(),
                counters: None,
            },
            admission: None,
        }
    }

    /// The parts that all sessions use.
    fn shared(&self, config: &Config) -> Shared {
        let Keepalives { websocket, events } = self.keepalives.clone();
        Shared {
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            keepalive: websocket,
            event_keepalive: events,
            limits: Limits {
                max_message: config.limits.max_message,
                max_fragments: MAX_FRAGMENTS,
                // Each handshake decides it for its own session.
                deflate: false,
            },
            publish: publish_limits(config),
            slow_client: config.limits.slow_client,
            node: rand::random(),
            senders: AtomicU32::new(1),
            log_messages: config.logs.messages.is_on(),
        }
    }

    fn bad_ends(&self) -> BadEnds {
        let slow = &self.metrics.slow_clients;
        BadEnds {
            timeout: self.rejected(Rejection::TIMEOUT),
            no_http: self.rejected(Rejection::NO_HTTP),
            slow: slow.with_label_values(&[SlowClient::Disconnect.label()]),
        }
    }

    /// The counter of what is rejected for this reason.
    fn rejected(&self, label: &str) -> Counter {
        self.metrics.handshakes_refused.with_label_values(&[label])
    }
}

fn publish_limits(config: &Config) -> PublishLimits {
    PublishLimits {
        messages: config.limits.message_rate,
        bytes: config.limits.byte_rate,
        max_message: config.limits.max_message as u64,
    }
}

fn limit_settings(config: &Config, descriptors: usize) -> LimitSettings {
    let publish = publish_limits(config);
    let has_proxies = !config.network.trusted_proxies.is_empty();
    LimitSettings {
        connections: config.limits.max_connections,
        descriptors,
        address: AddressLimits {
            connections: config.limits.address_connections,
            rate: config.limits.address_rate,
            // A client's own connection has buckets of its own. A proxy's belongs to many clients.
            publish: has_proxies && publish.any(),
        },
        publish,
    }
}

/// Removes channels without clients, and keeps the memory budget.
async fn sweep(hub: Arc<Hub>) {
    let mut ticks = interval(SWEEP_INTERVAL);
    // After a stall, one sweep is as good as several.
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
        // Sessions that are woken without room would only wait again.
        if hub.budget().has_room_now() {
            hub.inbox().wake_parked();
        }
    }
}
