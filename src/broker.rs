//! The broker: it takes what is published on one node to all nodes. This file is its contract.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, Intake};
use crate::metrics::Metrics;

mod embedded;
pub mod envelope;
mod redis;

pub(crate) use self::embedded::Embedded;
pub(crate) use self::redis::Redis;

/// Moves messages from a node's inbox to the feeds of all nodes.
///
/// What it promises:
/// - Every feed of a channel gets the same messages in the same order, each at most once. Those of
///   one publisher keep the order in which they were published.
/// - It is the only writer of feeds. A node's own messages come back to it the same way as everyone
///   else's.
/// - A channel is live while everything that is published on it will reach this node.
/// - It takes a batch from the inbox when it is about to hand it on, and settles it once it is held
///   elsewhere. So the inbox's bound is a bound on everything that the broker holds.
/// - It never gives up. While what it needs is away, [`Status`] is down, and it goes on by itself
///   afterwards.
pub trait Broker: Send + 'static {
    /// Works until `stop`, then hands on what the inbox still holds and returns. Dropping the
    /// future ends it at once.
    fn run(
        self,
        link: Link,
        intake: Intake,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// The parts of a node that its broker uses.
#[derive(Clone, Debug)]
pub struct Link {
    /// Inbox, channels and feeds.
    pub hub: Arc<Hub>,
    /// Counters of the node.
    pub(crate) metrics: Arc<Metrics>,
    /// Where it reports whether it can be reached.
    pub status: Arc<Status>,
}

/// Whether the broker can be reached.
#[derive(Debug)]
pub struct Status {
    up: AtomicBool,
    has_been_up: AtomicBool,
    /// Why it is down although something answers.
    why: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

impl Status {
    /// Down, and never up so far.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let never = || AtomicBool::new(false);
        let why = Mutex::default();
        Arc::new(Self {
            up: never(),
            has_been_up: never(),
            why,
            metrics,
        })
    }

    /// It is up or down from now on.
    pub fn set(&self, up: bool) {
        self.up.store(up, Release);
        self.has_been_up.fetch_or(up, Release);
        if up {
            self.explain(None);
        }
        self.metrics.broker_up.set(i64::from(up));
    }

    /// For operators: why it is down although something answers. `None` if nothing does.
    pub(crate) fn explain(&self, why: Option<String>) {
        *self.lock_why() = why;
    }

    /// Why it is down, if that is known.
    pub(crate) fn why(&self) -> Option<String> {
        self.lock_why().clone()
    }

    fn lock_why(&self) -> MutexGuard<'_, Option<String>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is up now.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Acquire)
    }

    /// Whether it has come up at least once: a node is ready from then on. A later outage does not
    /// make it unready, or a balancer would lose all nodes at once.
    pub(crate) fn has_been_up(&self) -> bool {
        self.has_been_up.load(Acquire)
    }
}
