//! The broker of a node that is alone: from the inbox to the feed inside the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::hub::{Change, Channel, Hub, Inbox, KeyTaken, PendingBatch, PublishError};
use crate::message::{MessageId, PublisherId, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

/// What traces call this broker.
const SYSTEM: &str = "echocast";

/// Needs nothing and is always up.
#[derive(Debug, Default)]
pub struct Embedded {
    /// Channels that pause, by [`Channel::publisher_id`].
    paused: HashMap<PublisherId, Paused>,
}

/// A channel whose readers have their turn before more is appended to its feed. Its messages wait
/// in the inbox, all others go on.
#[derive(Debug)]
struct Paused {
    channel: Arc<Channel>,
    /// Taken from the inbox already.
    rest: VecDeque<PendingBatch>,
    /// More of it is in the inbox.
    has_more: bool,
}

impl Broker for Embedded {
    async fn run(mut self, link: Link, stop: CancellationToken) {
        // All that is kept is in the feeds.
        drop(link.hub.take_history_requests());
        link.status.set(true);
        let mut turns = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                changes = link.hub.interest().take() => changes.into_iter().for_each(Self::follow),
                Some(channel) = turns.next() => turns.extend(self.resume(&link, channel).map(turn)),
                queued = link.hub.inbox().queued() => {
                    for channel in queued {
                        turns.extend(self.deliver_queued(&link, channel).map(turn));
                    }
                }
                () = stop.cancelled() => break,
            }
            // Sessions that are due read and write first: their messages join the next batch.
            yield_now().await;
        }
        for Paused { channel, rest, .. } in std::mem::take(&mut self.paused).into_values() {
            let more = Inbox::take_from(vec![channel]);
            rest.into_iter()
                .chain(more)
                .for_each(|pending| self.deliver(&link, pending));
        }
        link.hub
            .inbox()
            .try_take()
            .into_iter()
            .for_each(|pending| self.deliver(&link, pending));
        link.status.set(false);
    }
}

/// Returns a channel once its readers have had their turn.
async fn turn(channel: Arc<Channel>) -> Arc<Channel> {
    channel.feed.turn().await;
    channel
}

impl Embedded {
    fn follow(change: Change) {
        if let Change::New(channel) = change {
            channel.set_live(true);
        }
    }

    /// Delivers what the inbox has of a channel; returns the channel if it is to pause.
    fn deliver_queued(&mut self, link: &Link, channel: Arc<Channel>) -> Option<Arc<Channel>> {
        if let Some(paused) = self.paused.get_mut(&channel.publisher_id) {
            paused.has_more = true;
            return None;
        }
        let rest = Inbox::take_from(vec![channel.clone()]).into();
        self.deliver_all(link, channel, rest)
    }

    /// Goes on with a channel that has paused; returns it if it is to pause again.
    fn resume(&mut self, link: &Link, channel: Arc<Channel>) -> Option<Arc<Channel>> {
        let Paused {
            mut rest, has_more, ..
        } = self.paused.remove(&channel.publisher_id)?;
        if has_more {
            rest.extend(Inbox::take_from(vec![channel.clone()]));
        }
        self.deliver_all(link, channel, rest)
    }

    fn deliver_all(
        &mut self,
        link: &Link,
        channel: Arc<Channel>,
        mut rest: VecDeque<PendingBatch>,
    ) -> Option<Arc<Channel>> {
        while let Some(pending) = rest.pop_front() {
            if channel.feed.is_ahead() {
                rest.push_front(pending);
                self.paused.insert(
                    channel.publisher_id,
                    Paused {
                        channel: channel.clone(),
                        rest,
                        has_more: false,
                    },
                );
                return Some(channel);
            }
            self.deliver(link, pending);
        }
        None
    }

    fn deliver(&mut self, link: &Link, mut pending: PendingBatch) {
        match append(link, &mut pending) {
            Ok(last) => pending.acknowledge(last),
            Err(KeyTaken) => refuse(link, &mut pending),
        }
        link.hub.inbox().settle(&pending);
        link.hub.make_room();
    }
}

/// Appends a batch to its feed, unless its key is known; returns what its last message is called.
///
/// # Errors
/// If its key belongs to another message.
fn append(link: &Link, pending: &mut PendingBatch) -> Result<Option<MessageId>, KeyTaken> {
    let PendingBatch { channel, key, .. } = &*pending;
    // Only then: a digest costs more than everything else here.
    let keyed = key
        .clone()
        .and_then(|key| Some((key, pending.batch.digest()?)));
    if let Some((key, digest)) = &keyed
        && let Some(known) = channel
            .keys()
            .find(key, *digest, oldest(&link.hub, channel))?
    {
        channel.feed.confirm(pending.last());
        return Ok(Some(known));
    }
    let metrics = &link.metrics;
    let traceparent = pending.trace(SYSTEM);
    let relay = telemetry::relay_span(
        SYSTEM,
        pending.channel.name.as_str(),
        pending.count,
        &traceparent,
    );
    metrics.batch_messages.observe(pending.count as f64);
    let published_ns = now_ns();
    let batch = std::mem::take(&mut pending.batch).build(published_ns);
    let channel = &pending.channel;
    let subscribers = || link.hub.subscribers(&channel.name);
    let last = telemetry::deliver(&relay, subscribers, || {
        channel.feed.append(batch, Some(pending.last()))
    });
    let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
    metrics.publish_seconds.observe(seconds);
    metrics.relay_seconds.observe(seconds);
    metrics.messages_relayed.inc_by(pending.count as u64);
    if let (Some((key, digest)), Some(id)) = (keyed, last) {
        channel
            .keys()
            .remember(&key, digest, id, oldest(&link.hub, channel));
    }
    Ok(last)
}

/// The offset of the oldest message that the channel's history has.
fn oldest(hub: &Hub, channel: &Channel) -> u64 {
    let (_, next_offset) = channel.feed.expects();
    channel
        .feed
        .begins()
        .1
        .max(next_offset.saturating_sub(hub.history() as u64))
}

/// Its key belongs to another message: it will not come.
fn refuse(link: &Link, pending: &mut PendingBatch) {
    pending.channel.feed.confirm(pending.last());
    if !pending.has_receipts() {
        link.metrics.lost(LossCause::Refused, pending.count as u64);
    }
    pending.reject(&PublishError::KeyTaken);
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
    use crate::hub::Membership;
    use crate::message::Kind;
    use crate::metrics::Metrics;

    const MESSAGE: usize = 100_000;

    fn link() -> Link {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let ttl = Duration::from_secs(60);
        let retention = Retention {
            messages: 1000,
            bytes: 1_000_000,
            history_bytes: 1_000_000,
            ttl,
        };
        let budget = Budget::new(1 << 30, &metrics);
        let hub = Arc::new(Hub::new(retention, true, None, budget, metrics.clone()));
        Link {
            hub,
            status: Status::new(metrics.clone()),
            metrics,
        }
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
        let link = link();
        let (busy, honest) = (join(&link, "busy"), join(&link, "honest"));
        let (mut reader, other) = (waiting(&busy), waiting(&honest));
        let broker = tokio::spawn(Embedded::default().run(link.clone(), CancellationToken::new()));
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
