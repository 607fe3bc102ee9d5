//! The receivers of a node, one for each channel with clients here. This is the one list of them:
//! [`super::subscribers`] adds and removes channels as they come and go, and everybody else looks
//! them up. Its lock is held for that only, never while a receiver works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Names;
use super::receiver::{Receiver, Shared};
use crate::channel::ChannelName;
use crate::feed::FeedWriter;
use crate::hub::Channel;
use crate::message::Sequence;

#[derive(Debug)]
pub(super) struct Receivers {
    names: Names,
    shared: Arc<Shared>,
    by_name: Mutex<HashMap<ChannelName, Arc<Receiver>>>,
}

impl Receivers {
    pub(super) fn new(names: Names, shared: Arc<Shared>) -> Self {
        Self {
            names,
            shared,
            by_name: Mutex::default(),
        }
    }

    /// A channel has its first client.
    pub(super) fn add(&self, channel: Arc<Channel>, writer: FeedWriter) -> Arc<Receiver> {
        let name = channel.name.clone();
        let receiver = Arc::new(Receiver::new(channel, writer, self.shared.clone()));
        self.lock().insert(name, receiver.clone());
        receiver
    }

    /// A channel has gone; returns its receiver, if there was one. A channel that comes again has
    /// another one.
    pub(super) fn remove(&self, channel: &Arc<Channel>) -> Option<Arc<Receiver>> {
        let receiver = self.of(channel)?;
        self.lock().remove(&channel.name);
        receiver.end();
        Some(receiver)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Receiver>> {
        self.lock().values().cloned().collect()
    }

    /// The receiver of the channel that a pub/sub channel belongs to.
    pub(super) fn of_pubsub(&self, pubsub: &str) -> Option<Arc<Receiver>> {
        let name = self.names.channel(pubsub)?;
        self.lock().get(&name).cloned()
    }

    /// Takes a payload that Redis delivered. It may be of a channel that was unsubscribed lately.
    pub(super) fn deliver(&self, pubsub: &str, payload: Bytes) {
        if let Some(receiver) = self.of_pubsub(pubsub) {
            receiver.deliver(payload);
        }
    }

    /// A message that this node published was refused, or was published before. Without a receiver
    /// no client can wait for it.
    pub(super) fn settle(&self, channel: &Arc<Channel>, sequence: Sequence) {
        if let Some(receiver) = self.of(channel) {
            receiver.settle(sequence);
        }
    }

    fn of(&self, channel: &Arc<Channel>) -> Option<Arc<Receiver>> {
        let receiver = self.lock().get(&channel.name).cloned();
        receiver.filter(|receiver| Arc::ptr_eq(&receiver.channel, channel))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelName, Arc<Receiver>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::super::super::envelope::{Envelope, EnvelopeMessage};
    use super::super::super::{Link, Status};
    use super::super::Backoff;
    use super::super::history::Newest;
    use super::super::receiver::{Release, Request};
    use super::super::warnings::Warnings;
    use super::*;
    use crate::budget::Budget;
    use crate::feed::Retention;
    use crate::hub::{Change, Hub, Membership};
    use crate::metrics::Metrics;

    /// Receivers, one channel of theirs, and its writer.
    fn receivers(history: usize) -> (Receivers, Membership, FeedWriter) {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let retention = Retention {
            messages: history,
            bytes: 1024,
            history_bytes: usize::MAX,
            ttl: Duration::ZERO,
        };
        let budget = Budget::new(1 << 30, &metrics);
        let (hub, mut intake) = Hub::new(retention, false, None, budget, metrics.clone());
        let hub = Arc::new(hub);
        let membership = hub
            .join_as_subscriber(&ChannelName::new("a").expect("a name"))
            .expect("room");
        let Ok(Change::New(_, writer)) = intake.changes.try_recv() else {
            panic!("it is new");
        };
        let (requests, _) = tokio::sync::mpsc::unbounded_channel();
        let shared = Shared {
            link: Link {
                hub,
                status: Status::new(metrics.clone()),
                metrics,
            },
            warnings: Arc::new(Warnings::new()),
            kept_for: Duration::from_secs(history as u64),
            rounds: AtomicU64::new(0),
            requests,
        };
        let receivers = Receivers::new(Names::new("p", 0), Arc::new(shared));
        (receivers, membership, writer)
    }

    #[test]
    fn a_flood_before_a_channel_without_history_is_live_does_not_keep_it_from_that() {
        let (receivers, membership, writer) = receivers(0);
        let channel = membership.channel();
        let receiver = receivers.add(channel.clone(), writer);
        let round = receiver.hold();
        for _ in 0..100 {
            receivers.deliver("p:{a}", vec![b'x'; 64 * 1024].into());
        }
        receiver.subscribed(round);
        let before = channel.feed.bytes();
        receivers.deliver("p:{a}", "after".into());
        assert_ne!(channel.feed.bytes(), before, "it is live");
    }

    #[test]
    fn a_request_of_a_channel_that_has_gone_does_nothing() {
        let (receivers, membership, writer) = receivers(1000);
        let channel = membership.channel();
        let receiver = receivers.add(channel.clone(), writer);
        let request = |round| Request {
            receiver: receiver.clone(),
            round,
            backoff: Backoff::default(),
            unbroken: false,
        };
        let newest = Newest::default();
        let batch = Envelope {
            epoch: 1,
            offset: 1,
            publisher_id: 1,
            sequence: 1,
            messages: vec![EnvelopeMessage {
                payload: "x".into(),
                ..EnvelopeMessage::default()
            }],
            ..Envelope::default()
        };
        let came = || channel.feed.expects().1 - 1;
        // A newer request has taken over.
        let older = request(receiver.hold());
        let newer = request(receiver.hold());
        assert!(!older.ask() && newer.ask());
        assert_eq!(receiver.release(&older, &newest), Release::Superseded);
        older.recover(batch.clone(), true);
        assert_eq!(came(), 0);
        newer.recover(batch.clone(), true);
        assert_eq!(came(), 1);
        // The channel has gone.
        assert!(receivers.remove(channel).is_some() && receivers.remove(channel).is_none());
        assert!(!newer.ask());
        assert_eq!(receiver.release(&newer, &newest), Release::Superseded);
    }
}
