//! Decodes everything that arrives on the connection of a [`super::subscriber`]: messages go to the
//! [`super::receivers`], everything else is for the subscriber to know.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tracing::warn;

use super::receivers::Receivers;
use super::round_trips::RoundTrips;

/// Called in order, on the connection's own task.
pub(super) struct Pushes {
    receivers: Arc<Receivers>,
    /// The pub/sub channel of probes.
    pub(super) probe: String,
    /// The newest of the subscriber's own probes that came back.
    newest_probe: AtomicU64,
    probe_came: Notify,
    /// Probes of other connections come back over the same pub/sub channel.
    round_trips: Arc<RoundTrips>,
    /// Notified when the connection ends.
    pub(super) disconnected: Notify,
    /// Notified when a server has given a slot away, with the subscriptions there.
    pub(super) unsubscribed: Notify,
    /// Pub/sub channels that a server has unsubscribed by itself.
    given_away: Mutex<Vec<String>>,
    /// The subscriber waits for an answer on this connection to a server of a Cluster.
    asking: AtomicBool,
    /// Pub/sub channels that the subscriber is about to unsubscribe there.
    leaving: Mutex<HashSet<String>>,
    /// A newer connection may be there: what still comes over this one must not mix with what comes
    /// over that.
    closed: AtomicBool,
}

impl Pushes {
    pub(super) fn new(
        receivers: Arc<Receivers>,
        probe: String,
        round_trips: Arc<RoundTrips>,
    ) -> Self {
        Self {
            receivers,
            probe,
            newest_probe: AtomicU64::new(0),
            probe_came: Notify::new(),
            round_trips,
            disconnected: Notify::new(),
            unsubscribed: Notify::new(),
            given_away: Mutex::default(),
            asking: AtomicBool::new(false),
            leaving: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes what arrived.
    pub(super) fn receive(&self, push: PushInfo) {
        match push.kind {
            _ if self.closed.load(Acquire) => {}
            PushKind::Disconnection => self.disconnected.notify_one(),
            PushKind::Message | PushKind::SMessage => self.receive_message(push.data),
            PushKind::SUnsubscribe if !self.is_expected(&push.data) => {
                self.note_given_away(&push.data);
            }
            // Confirmations: the subscriber awaits them.
            _ => {}
        }
    }

    fn receive_message(&self, data: Vec<Value>) {
        let Ok([Value::BulkString(pubsub), Value::BulkString(payload)]) =
            <[Value; 2]>::try_from(data)
        else {
            return warn!("redis pushed a message of an unknown shape");
        };
        // Names we subscribed to are ASCII, so this one is.
        let pubsub = String::from_utf8_lossy(&pubsub);
        if pubsub == self.probe {
            self.receive_probe(&String::from_utf8_lossy(&payload));
        } else {
            self.receivers.deliver(&pubsub, payload.into());
        }
    }

    /// The subscriber's own probes are numbers. Anybody may publish here, so that a payload which is
    /// no probe proves nothing.
    fn receive_probe(&self, payload: &str) {
        if let Ok(number) = payload.parse() {
            self.newest_probe.store(number, Release);
            self.probe_came.notify_one();
        } else {
            self.round_trips.came(payload);
        }
    }

    /// Waits until this probe of the subscriber has come back.
    pub(super) async fn wait_for_probe(&self, number: u64) {
        while self.newest_probe.load(Acquire) < number {
            self.probe_came.notified().await;
        }
    }

    /// A server has unsubscribed a pub/sub channel by itself, because it has given away its slot.
    fn note_given_away(&self, data: &[Value]) {
        let name = data
            .first()
            .and_then(|name| redis::from_redis_value_ref(name).ok());
        lock(&self.given_away).extend(name);
        self.unsubscribed.notify_one();
        // redis-rs matches replies by order. An unsolicited SUNSUBSCRIBE is taken for a pending
        // reply, so every later reply is off by one: drop the connection.
        if self.asking.load(Acquire) {
            self.disconnected.notify_one();
        }
    }

    /// The pub/sub channels that were given away since the last look.
    pub(super) fn take_given_away(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.given_away))
    }

    /// The subscriber is about to unsubscribe these.
    pub(super) fn expect_to_leave(&self, names: &[String]) {
        *lock(&self.leaving) = names.iter().cloned().collect();
    }

    fn is_expected(&self, confirmation: &[Value]) -> bool {
        let Some(Value::BulkString(name)) = confirmation.first() else {
            return false;
        };
        lock(&self.leaving).remove(&*String::from_utf8_lossy(name))
    }

    /// The subscriber begins, or ends, to wait for answers from a server of a Cluster.
    pub(super) fn set_asking(&self, asking: bool) {
        self.asking.store(asking, Release);
    }

    /// Whatever still arrives is ignored.
    pub(super) fn close(&self) {
        self.closed.store(true, Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
