//! The broker of a node that is alone: from the inbox to the feed inside the process.

use std::collections::{HashMap, VecDeque};

use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::channel::ChannelName;
use crate::hub::{Change, Outgoing};
use crate::message::{MessageId, now_ns};
use crate::telemetry;

/// What traces call this broker.
const SYSTEM: &str = "echocast";

/// Needs nothing and is always up.
#[derive(Debug, Default)]
pub struct Embedded {
    /// The keys that messages were given, by channel.
    keys: HashMap<ChannelName, Keys>,
}

/// The keys of a channel's messages, as long as the messages are kept.
#[derive(Debug, Default)]
struct Keys {
    by_key: HashMap<String, MessageId>,
    oldest_first: VecDeque<(u64, String)>,
}

impl Broker for Embedded {
    async fn run(mut self, link: Link, stop: CancellationToken) {
        // All that is kept is in the feeds.
        drop(link.hub.readings());
        link.status.set(true);
        loop {
            tokio::select! {
                biased;
                changes = link.hub.interest().take() => changes.into_iter().for_each(|change| self.follow(change)),
                taken = link.hub.inbox().take() => self.deliver(&link, taken).await,
                () = stop.cancelled() => break,
            }
            // Sessions that are due read and write first: what they say meanwhile joins the next batch.
            yield_now().await;
        }
        self.deliver(&link, link.hub.inbox().try_take()).await;
        link.status.set(false);
    }
}

impl Embedded {
    fn follow(&mut self, change: Change) {
        match change {
            Change::New(channel) => channel.set_live(true),
            Change::Gone(channel) => {
                self.keys.remove(&channel.name);
            }
        }
    }

    async fn deliver(&mut self, link: &Link, taken: Vec<Outgoing>) {
        for mut outgoing in taken {
            let channel = outgoing.channel.clone();
            let last = self.append(link, &mut outgoing);
            outgoing.held(last);
            link.hub.inbox().settle(outgoing.count, outgoing.bytes);
            channel.feed.settled().await;
        }
    }

    /// Appends a batch to its feed, unless its key is known; returns what its last message is called.
    fn append(&mut self, link: &Link, outgoing: &mut Outgoing) -> Option<MessageId> {
        let Outgoing { channel, key, .. } = &*outgoing;
        let known = key.as_ref().and_then(|key| self.keys.get(&channel.name)?.by_key.get(key));
        let (_, next_offset) = channel.feed.expects();
        if let Some(known) = known.filter(|known| known.offset + link.hub.history() as u64 >= next_offset) {
            channel.feed.confirm(outgoing.last());
            return Some(*known);
        }
        let metrics = &link.metrics;
        let traceparent = outgoing.trace(SYSTEM);
        let relay = telemetry::relay_span(SYSTEM, outgoing.channel.name.as_str(), outgoing.count, &traceparent);
        metrics.batch_messages.observe(outgoing.count as f64);
        let published_ns = now_ns();
        let batch = std::mem::take(&mut outgoing.batch).build(published_ns);
        let channel = &outgoing.channel;
        let followers = || link.hub.followers(&channel.name);
        let last = telemetry::deliver(&relay, followers, || channel.feed.append(batch, Some(outgoing.last())));
        let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
        metrics.publish_seconds.observe(seconds);
        metrics.relay_seconds.observe(seconds);
        metrics.messages_relayed.inc_by(outgoing.count as u64);
        if let (Some(key), Some(id)) = (outgoing.key.take(), last) {
            self.keys.entry(outgoing.channel.name.clone()).or_default().remember(key, id, link.hub.history());
        }
        last
    }
}

impl Keys {
    fn remember(&mut self, key: String, id: MessageId, history: usize) {
        self.oldest_first.push_back((id.offset, key.clone()));
        self.by_key.insert(key, id);
        while let Some((offset, _)) = self.oldest_first.front()
            && offset + history as u64 <= id.offset
            && let Some((_, old)) = self.oldest_first.pop_front()
        {
            self.by_key.remove(&old);
        }
    }
}
