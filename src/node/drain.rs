//! The end of a node, in steps: readiness off, drain delay, listeners closed, sessions closed over
//! the drain period, inbox published. All but the drain delay has to fit into the grace.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::parts::Keepalives;
use super::supervisor::Task;
use crate::config::ShutdownConfig;
use crate::metrics::{LossCause, Metrics};
use crate::shutdown::Shutdown;

/// The last part of the grace belongs to the broker, however many sessions are left then: a quarter
/// of the grace, and this at most.
const BROKER_SHARE: Duration = Duration::from_secs(5);

/// Sessions are closed at most this far apart, so that a few do not take the whole drain period.
const CLOSES_APART: Duration = Duration::from_millis(100);

/// The tasks and handles that a drain needs.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) config: ShutdownConfig,
    pub(super) shutdown: Shutdown,
    pub(super) keepalives: Keepalives,
    pub(super) metrics: Arc<Metrics>,
    pub(super) public_port: Task,
    pub(super) broker: Task,
}

impl Drain {
    /// Everything from the stop signal to the last published message.
    pub(super) async fn run(mut self) {
        self.become_unready().await;
        let end = Instant::now() + self.config.grace;
        self.close_listener().await;
        self.close_sessions(end).await;
        self.finish_publishing(end).await;
        info!("drained");
    }

    /// Step 1: `/readyz` fails. Clients are still served, because balancers notice only later.
    async fn become_unready(&self) {
        self.shutdown.begin();
        self.metrics.draining.set(1);
        sleep(self.config.drain_delay).await;
    }

    /// Step 2: no new connections. Those that are no sessions end after their current answer.
    async fn close_listener(&mut self) {
        self.shutdown.listeners.cancel();
        self.public_port.ended().await;
        // Nothing can join any more, so waiting for the sessions can end.
        self.shutdown.sessions.close();
    }

    /// Step 3: sessions are closed one after another, so that their clients do not all reconnect at
    /// the same moment. Those left shortly before the end are cut off.
    async fn close_sessions(&self, end: Instant) {
        let period = self.period();
        let closing = async {
            let Keepalives { websocket, events } = &self.keepalives;
            join(websocket.drain(period), events.drain(period)).await;
            self.shutdown.sessions.wait().await;
        };
        let all_closed = async {
            tokio::select! {
                () = closing => {}
                // All may have left before the period is over.
                () = self.shutdown.sessions.wait() => {}
            }
        };
        let share = BROKER_SHARE.min(self.config.grace / 4);
        if timeout_at(end - share, all_closed).await.is_err() {
            let sessions = self.shutdown.sessions.len();
            warn!(sessions, "grace is nearly over, cutting off who is left");
            self.keepalives.cut_off();
        }
    }

    /// The time over which sessions are closed: shorter than the setting if there are few.
    fn period(&self) -> Duration {
        let websockets = self.metrics.websocket.connections.get();
        let event_streams = self.metrics.events.connections.get();
        let sessions = (websockets + event_streams).max(0) as u32;
        let period = self.config.drain_period.min(CLOSES_APART * sessions);
        info!(sessions, period_ms = period.as_millis() as u64, "draining");
        period
    }

    /// Step 4: the broker publishes the rest of the inbox.
    async fn finish_publishing(&mut self, end: Instant) {
        self.shutdown.broker.cancel();
        if timeout_at(end, self.broker.ended()).await.is_ok() {
            return;
        }
        self.broker.abort();
        let messages = self.metrics.inbox_depth.get().max(0) as u64;
        self.metrics.lost(LossCause::Shutdown, messages);
        error!(
            messages,
            "grace is over before the broker took everything: what was not published is lost"
        );
    }
}
