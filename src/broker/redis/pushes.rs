//! What the connection of a [`super::subscriber`] calls for everything that arrives: messages go to the
//! [`super::receiver`], everything else is for the subscriber to know.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tracing::warn;

use super::receiver::Receivers;
use super::round_trips::RoundTrips;

/// Called in order, on the connection's own task.
pub(super) struct Pushes {
    receivers: Arc<Receivers>,
    pub(super) probe: String,
    /// The newest probe that came back.
    pub(super) probed: AtomicU64,
    pub(super) heard_probe: Notify,
    /// Probes of other connections come back over the same channel.
    round_trips: Arc<RoundTrips>,
    /// Told when the connection ends.
    pub(super) deaf: Notify,
    /// Told when a server has given a slot away, with what was heard there.
    pub(super) robbed: Notify,
    stolen: Mutex<Vec<String>>,
    /// Somebody waits for an answer on this connection to a server of a Cluster.
    pub(super) asking: AtomicBool,
    /// What is about to be unsubscribed there.
    leaving: Mutex<HashSet<String>>,
    /// A newer connection may be there: what still comes over this one must not mix with what comes
    /// over that.
    pub(super) closed: AtomicBool,
}

impl Pushes {
    pub(super) fn new(
        receivers: Arc<Receivers>,
        probe: String,
        round_trips: Arc<RoundTrips>,
    ) -> Self {
        let (heard_probe, deaf, robbed) = (Notify::new(), Notify::new(), Notify::new());
        let (stolen, leaving) = (Mutex::default(), Mutex::default());
        let (asking, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        let probed = AtomicU64::new(0);
        Self {
            receivers,
            probe,
            probed,
            heard_probe,
            round_trips,
            deaf,
            robbed,
            stolen,
            asking,
            leaving,
            closed,
        }
    }

    pub(super) fn hear(&self, push: PushInfo) {
        match push.kind {
            _ if self.closed.load(Acquire) => {}
            PushKind::Disconnection => self.deaf.notify_one(),
            PushKind::Message | PushKind::SMessage => self.hear_message(push.data),
            PushKind::SUnsubscribe if !self.expected(&push.data) => {
                let name = push
                    .data
                    .first()
                    .and_then(|name| redis::from_redis_value_ref(name).ok());
                lock(&self.stolen).extend(name);
                self.robbed.notify_one();
                // What nobody asked for is taken for the answer to what somebody has asked, and the
                // answers of this connection are each other's from now on. Otherwise nobody
                // notices.
                if self.asking.load(Acquire) {
                    self.deaf.notify_one();
                }
            }
            // Confirmations: whoever subscribed awaits them.
            _ => {}
        }
    }

    /// What was given away since the last look.
    pub(super) fn take_stolen(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.stolen))
    }

    pub(super) fn expect_to_leave(&self, names: &[String]) {
        *lock(&self.leaving) = names.iter().cloned().collect();
    }

    fn expected(&self, confirmation: &[Value]) -> bool {
        let Some(Value::BulkString(name)) = confirmation.first() else {
            return false;
        };
        lock(&self.leaving).remove(&*String::from_utf8_lossy(name))
    }

    fn hear_message(&self, data: Vec<Value>) {
        let Ok([Value::BulkString(pubsub), Value::BulkString(payload)]) =
            <[Value; 2]>::try_from(data)
        else {
            return warn!("redis pushed a message of an unknown shape");
        };
        // Names we subscribed to are ASCII, so this one is.
        let pubsub = String::from_utf8_lossy(&pubsub);
        if pubsub == self.probe {
            // Anybody may publish there; what is no number proves nothing.
            let payload = String::from_utf8_lossy(&payload);
            if let Ok(number) = payload.parse() {
                self.probed.store(number, Release);
                self.heard_probe.notify_one();
            } else {
                self.round_trips.came(&payload);
            }
        } else {
            self.receivers.deliver(&pubsub, payload.into());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::envelope::{Envelope, EnvelopeMessage};
    use super::super::super::{Link, Status};
    use super::super::history::Newest;
    use super::super::receiver::{Release, Request};
    use super::super::warnings::Warnings;
    use super::super::{Backoff, Names};
    use super::*;
    use crate::budget::Budget;
    use crate::channel::ChannelName;
    use crate::feed::Retention;
    use crate::hub::{Hub, Membership};
    use crate::metrics::Metrics;

    /// A receivers, and a channel that it hears.
    fn receivers(history: usize) -> (Arc<Receivers>, Membership) {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let retention = Retention {
            messages: history,
            bytes: 1024,
            history_bytes: usize::MAX,
            ttl: Duration::ZERO,
        };
        let hub = Arc::new(Hub::new(
            retention,
            false,
            None,
            Budget::new(1 << 30, &metrics),
            metrics.clone(),
        ));
        let membership = hub
            .join_as_subscriber(&ChannelName::new("a").expect("a name"))
            .expect("room");
        let link = Link {
            hub,
            status: Status::new(metrics.clone()),
            metrics,
        };
        let (requests, _) = tokio::sync::mpsc::unbounded_channel();
        let (warnings, kept_for) = (
            Arc::new(Warnings::new()),
            Duration::from_secs(history as u64),
        );
        (
            Arc::new(Receivers::new(
                link,
                Names::new("p", 0),
                warnings,
                kept_for,
                requests,
            )),
            membership,
        )
    }

    #[test]
    fn a_flood_before_a_channel_without_history_is_live_does_not_keep_it_from_that() {
        let (receivers, membership) = receivers(0);
        let channel = membership.channel();
        let pushes = Pushes::new(receivers.clone(), "probe".into(), Arc::default());
        let hear = |payload: &[u8]| {
            let data = vec![
                Value::BulkString(b"p:{a}".into()),
                Value::BulkString(payload.into()),
            ];
            pushes.hear(PushInfo {
                kind: PushKind::Message,
                data,
            });
        };
        receivers.add(channel);
        let round = receivers.hold(channel);
        (0..100).for_each(|_| hear(&[b'x'; 64 * 1024]));
        receivers.subscribed(channel, round);
        let before = channel.feed.bytes();
        hear(b"after");
        assert_ne!(channel.feed.bytes(), before, "it is live");
    }

    #[test]
    fn who_catches_up_with_a_channel_that_went_leaves_the_one_alone_that_came_after_it() {
        let (receivers, membership) = receivers(1000);
        let channel = membership.channel();
        let request = |round| Request {
            channel: channel.clone(),
            round,
            backoff: Backoff::default(),
            unbroken: false,
        };
        receivers.add(channel);
        let went = request(receivers.hold(channel));
        receivers.forget(channel);
        receivers.add(channel);
        let came = request(receivers.hold(channel));
        assert!(!receivers.ask(&went) && receivers.ask(&came));
        assert_eq!(
            receivers.release(&went, &Newest::default()),
            Release::Superseded
        );
        let messages = vec![EnvelopeMessage {
            payload: "x".into(),
            ..EnvelopeMessage::default()
        }];
        let said = Envelope {
            epoch: 1,
            offset: 1,
            publisher_id: 1,
            sequence: 1,
            messages,
            ..Envelope::default()
        };
        assert_eq!(receivers.recover(&went, said.clone(), true), 0);
        assert_eq!(receivers.recover(&came, said, true), 1);
    }
}
