//! The broker of a node that is alone: from the inbox to the feed inside the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::feed::FeedWriter;
use crate::hub::{Change, Channel, Inbox, Intake, KeyTaken, PendingBatch, PublishError};
use crate::message::{Digest, MessageId, PublisherId, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

/// The name of this broker in traces.
const SYSTEM: &str = "echocast";

/// Needs nothing and is always up.
#[derive(Debug, Default)]
pub(crate) struct Embedded {
    /// The channels of this node.
    outlets: HashMap<PublisherId, Outlet>,
}

/// A channel's way from the inbox to its feed.
#[derive(Debug)]
struct Outlet {
    channel: Arc<Channel>,
    writer: FeedWriter,
    /// It waits until its readers had their turn. All other channels go on.
    paused: Option<Paused>,
}

/// Batches of a channel that waits.
#[derive(Debug, Default)]
struct Paused {
    rest: VecDeque<PendingBatch>,
    /// More of it is in the inbox. It is taken only when the inbox said so since: a channel that
    /// pauses again and again must not keep the others from being looked at.
    has_more: bool,
}

impl Broker for Embedded {
    async fn run(mut self, link: Link, mut intake: Intake, stop: CancellationToken) {
        // All that is kept is in the feeds.
        drop(intake.history_requests);
        link.status.set(true);
        let mut turns = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(change) = intake.changes.recv() => {
                    self.follow(&link, change);
                    self.follow_all(&link, &mut intake.changes);
                }
                Some(channel) = turns.next() => turns.extend(self.resume(&link, channel).map(turn)),
                queued = link.hub.inbox().queued() => {
                    // Channels that came before they were published on.
                    self.follow_all(&link, &mut intake.changes);
                    for channel in queued {
                        turns.extend(self.deliver_queued(&link, channel).map(turn));
                    }
                }
                () = stop.cancelled() => break,
            }
            // Sessions that are ready read and write first: their messages join the next batch.
            yield_now().await;
        }
        // Everything that is left, readers or not.
        self.follow_all(&link, &mut intake.changes);
        for outlet in self.outlets.values_mut() {
            outlet.deliver_all(&link);
        }
        for channel in link.hub.inbox().try_queued() {
            if let Some(outlet) = self.outlets.get_mut(&channel.publisher_id) {
                outlet.deliver_all(&link);
            }
        }
        link.status.set(false);
    }
}

/// Returns a channel once its readers have had their turn.
async fn turn(channel: Arc<Channel>) -> Arc<Channel> {
    channel.feed.turn().await;
    channel
}

impl Embedded {
    fn follow_all(&mut self, link: &Link, changes: &mut UnboundedReceiver<Change>) {
        while let Ok(change) = changes.try_recv() {
            self.follow(link, change);
        }
    }

    fn follow(&mut self, link: &Link, change: Change) {
        match change {
            Change::New(channel, writer) => {
                channel.set_live(true);
                let outlet = Outlet {
                    channel: channel.clone(),
                    writer,
                    paused: None,
                };
                self.outlets.insert(channel.publisher_id, outlet);
            }
            Change::Gone(channel) => {
                // Messages published just before must not stay in the inbox.
                if let Some(mut outlet) = self.outlets.remove(&channel.publisher_id) {
                    outlet.deliver_all(link);
                }
            }
        }
    }

    /// Delivers what the inbox has of a channel; returns the channel if it is to pause.
    fn deliver_queued(&mut self, link: &Link, channel: Arc<Channel>) -> Option<Arc<Channel>> {
        let outlet = self.outlets.get_mut(&channel.publisher_id)?;
        if let Some(paused) = &mut outlet.paused {
            paused.has_more = true;
            return None;
        }
        let queued = Inbox::take_from(vec![channel]);
        outlet.deliver(link, queued.into())
    }

    /// Goes on with a channel that has paused; returns it if it is to pause again.
    fn resume(&mut self, link: &Link, channel: Arc<Channel>) -> Option<Arc<Channel>> {
        let outlet = self.outlets.get_mut(&channel.publisher_id)?;
        let Paused { mut rest, has_more } = outlet.paused.take()?;
        if has_more {
            rest.extend(Inbox::take_from(vec![channel]));
        }
        outlet.deliver(link, rest)
    }
}

impl Outlet {
    /// Delivers these batches until the channel's readers need their turn: then the channel is
    /// returned, and the rest waits.
    fn deliver(&mut self, link: &Link, mut rest: VecDeque<PendingBatch>) -> Option<Arc<Channel>> {
        while let Some(pending) = rest.pop_front() {
            if self.channel.feed.is_ahead() {
                rest.push_front(pending);
                self.paused = Some(Paused {
                    rest,
                    has_more: false,
                });
                return Some(self.channel.clone());
            }
            self.deliver_batch(link, pending);
        }
        None
    }

    /// Delivers everything, whether readers need their turn or not.
    fn deliver_all(&mut self, link: &Link) {
        let paused = self.paused.take().unwrap_or_default();
        let queued = Inbox::take_from(vec![self.channel.clone()]);
        for pending in paused.rest.into_iter().chain(queued) {
            self.deliver_batch(link, pending);
        }
    }

    fn deliver_batch(&mut self, link: &Link, mut pending: PendingBatch) {
        match self.append_once(link, &mut pending) {
            Ok(last) => pending.acknowledge(last),
            Err(KeyTaken) => self.reject(link, &mut pending),
        }
        link.hub.inbox().settle(&pending);
        link.hub.make_room();
    }

    /// Appends a batch to the feed, unless its key is known; returns the id of its last message.
    ///
    /// # Errors
    /// If its key belongs to another message.
    fn append_once(
        &mut self,
        link: &Link,
        pending: &mut PendingBatch,
    ) -> Result<Option<MessageId>, KeyTaken> {
        // Only with a key: a digest costs more than everything else here.
        let key = pending.key.clone();
        let keyed: Option<(String, Digest)> =
            key.and_then(|key| Some((key, pending.batch.digest()?)));
        if let Some((key, digest)) = &keyed {
            let oldest = self.oldest(link);
            if let Some(known) = self.channel.keys().find(key, *digest, oldest)? {
                self.writer.settle(pending.last());
                return Ok(Some(known));
            }
        }
        // The id is known only now.
        let last = self.append(link, pending);
        if let (Some((key, digest)), Some(id)) = (keyed, last) {
            let oldest = self.oldest(link);
            self.channel.keys().remember(&key, digest, id, oldest);
        }
        Ok(last)
    }

    /// Appends a batch to the feed; returns the id of its last message.
    fn append(&mut self, link: &Link, pending: &mut PendingBatch) -> Option<MessageId> {
        let (metrics, count) = (&link.metrics, pending.count);
        let name = &self.channel.name;
        let traceparent = pending.trace(SYSTEM);
        let relay = telemetry::relay_span(SYSTEM, name.as_str(), count, &traceparent);
        metrics.batch_messages.observe(count as f64);
        let published_ns = now_ns();
        // The receipts stay behind, to be answered with the id.
        let batch = std::mem::take(&mut pending.batch).build(published_ns);
        let subscribers = || link.hub.subscribers(name);
        let writer = &mut self.writer;
        let last = telemetry::deliver(&relay, subscribers, || {
            writer.append(batch, Some(pending.last()))
        });
        let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
        metrics.publish_seconds.observe(seconds);
        metrics.relay_seconds.observe(seconds);
        metrics.messages_relayed.inc_by(count as u64);
        last
    }

    /// The offset of the oldest message that the channel's history has.
    fn oldest(&self, link: &Link) -> u64 {
        let feed = &self.channel.feed;
        let (_, next_offset) = feed.expects();
        let kept_from = next_offset.saturating_sub(link.hub.history() as u64);
        feed.begins().1.max(kept_from)
    }

    /// The key of a batch belongs to another message, so this one will not be delivered.
    fn reject(&mut self, link: &Link, pending: &mut PendingBatch) {
        self.writer.settle(pending.last());
        if !pending.has_receipts() {
            link.metrics.lost(LossCause::Refused, pending.count as u64);
        }
        pending.reject(&PublishError::KeyTaken);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::super::Status;
    use super::*;
    use crate::budget::Budget;
    use crate::channel::ChannelName;
    use crate::feed::{Cursor, Retention, Taken};
    use crate::hub::{Hub, Membership};
    use crate::message::Kind;
    use crate::metrics::Metrics;

    const MESSAGE: usize = 100_000;

    fn link() -> (Link, Intake) {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let ttl = Duration::from_secs(60);
        let retention = Retention {
            messages: 1000,
            bytes: 1_000_000,
            history_bytes: 1_000_000,
            ttl,
        };
        let budget = Budget::new(1 << 30, &metrics);
        let (hub, intake) = Hub::new(retention, true, None, budget, metrics.clone());
        let link = Link {
            hub: Arc::new(hub),
            status: Status::new(metrics.clone()),
            metrics,
        };
        (link, intake)
    }

    fn join(link: &Link, name: &str) -> Membership {
        link.hub
            .join_as_subscriber(&ChannelName::new(name).expect("a name"))
            .expect("room")
    }

    fn publish(link: &Link, membership: &Membership, messages: usize) {
        let mut publication = membership.channel().publish(link.hub.inbox());
        for _ in 0..messages {
            publication.push(Kind::Binary, &[7; MESSAGE], 0);
        }
    }

    /// A reader that is woken by what comes and does not have its turn.
    fn waiting(membership: &Membership) -> Cursor {
        let mut cursor = membership.channel().feed.follow();
        let mut context = Context::from_waker(Waker::noop());
        assert!(
            cursor
                .poll_take(&mut context, &mut Taken::new())
                .is_pending()
        );
        cursor
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_whose_readers_have_had_no_turn_pauses_and_no_other() {
        let (link, intake) = link();
        let (busy, honest) = (join(&link, "busy"), join(&link, "honest"));
        let (mut reader, other) = (waiting(&busy), waiting(&honest));
        let broker =
            tokio::spawn(Embedded::default().run(link.clone(), intake, CancellationToken::new()));
        let next = |membership: &Membership| membership.channel().feed.expects().1 - 1;
        publish(&link, &busy, 12);
        until(|| next(&busy) > 0).await;
        publish(&link, &honest, 1);
        until(|| next(&honest) == 1).await;
        let came = next(&busy);
        assert!(
            came * 100_000 < 600_000,
            "a quarter of the feed and a batch at most: {came} of 12"
        );
        // More of it waits behind that, in order.
        publish(&link, &busy, 1);
        while next(&busy) < 13 {
            let mut taken = Taken::new();
            assert_eq!(
                reader.take_now(&mut taken),
                Ok(true),
                "nothing is pushed out before it was read"
            );
            reader.skip(&taken);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(other);
        broker.abort();
    }
}
