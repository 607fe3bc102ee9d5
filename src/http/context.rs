//! The parts of the node that requests to the public port use.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use tokio::sync::Semaphore;

use crate::broker::Status;
use crate::client::caller::Proxies;
use crate::client::connection_limits::{ConnectionLimits, Permit};
use crate::client::origin::Origins;
use crate::client::rate::LEAST_RATE;
use crate::client::rejection::Rejection;
use crate::hub::Subscription;
use crate::shutdown::Shutdown;
use crate::ws::opening::Opening;
use crate::ws::session::{NewSession, SessionOptions, Shared};
use crate::ws::shard::Shards;

/// How long a request may take, beside the time that its body may take to arrive.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);

/// JSON answers that are collected at the same time. Each yields after 16 KiB, so that one waits
/// for at most this many such pieces.
pub(crate) const COLLECTORS: usize = 16;

/// The parts of the node that requests to the public port use.
#[derive(Debug)]
pub(crate) struct Context {
    /// The parts that all sessions use.
    pub shared: Arc<Shared>,
    /// The tasks that poll the sessions.
    pub shards: Arc<Shards>,
    /// The connection limits.
    pub limits: Arc<ConnectionLimits>,
    /// Networks of proxies whose `X-Forwarded-For` or `Forwarded` is believed.
    pub proxies: Arc<Proxies>,
    /// Origins of the web pages that may connect.
    pub origins: Origins,
    /// Whether permessage-deflate is negotiated.
    pub deflate: bool,
    /// The state of the broker.
    pub status: Arc<Status>,
    /// Whether the node drains.
    pub shutdown: Shutdown,
    /// Permits to collect a JSON answer: [`COLLECTORS`] of them.
    pub collecting: Semaphore,
}

impl Context {
    /// How long a whole request may take: the time of the largest body, and what the broker needs.
    pub(super) fn patience(&self) -> Duration {
        let largest = self.shared.limits.max_message as u64;
        REQUEST_PATIENCE + Duration::from_secs(largest / LEAST_RATE)
    }

    /// Checks that a request may use channels: its origin is allowed, and the node still serves.
    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Rejection> {
        self.origins.check(method, headers)?;
        // During the drain delay balancers still send new clients, so those are served.
        if self.shutdown.listeners.is_cancelled() {
            Err(Rejection::Draining)
        } else {
            Ok(())
        }
    }

    /// A session that begins once its connection's socket is free.
    pub(super) fn opening(
        &self,
        subscription: Subscription,
        options: SessionOptions,
        permit: Permit,
        greeting: Vec<u8>,
    ) -> Opening {
        Opening {
            session: NewSession {
                shared: self.shared.clone(),
                subscription,
                options,
                permit,
                greeting,
            },
            shards: self.shards.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    /// Counts and logs a rejected request.
    pub(super) fn count(&self, rejection: &Rejection) {
        // Clients cause it, so at `info` they could fill the log.
        tracing::debug!(reason = rejection.label(), "refused: {rejection}");
        // A connection over the limits was counted when it was accepted.
        if matches!(rejection, Rejection::ConnectionLimit(_)) {
            return;
        }
        let rejected = &self.shared.metrics.handshakes_refused;
        rejected.with_label_values(&[rejection.label()]).inc();
    }
}
