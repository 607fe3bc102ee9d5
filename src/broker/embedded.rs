//! The broker of a node that is alone: from the inbox to the feed inside the process.

use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::{Broker, Link};
use crate::hub::{Change, Channel, Outgoing};
use crate::message::{BatchBuilder, now_ns};
use crate::telemetry;

/// What traces call this broker.
const SYSTEM: &str = "echocast";

/// Needs nothing and is always up.
#[derive(Debug, Default)]
pub struct Embedded;

impl Broker for Embedded {
    async fn run(self, link: Link, stop: CancellationToken) {
        link.status.set(true);
        loop {
            tokio::select! {
                biased;
                changes = link.hub.interest().take() => changes.into_iter().for_each(go_live),
                taken = link.hub.inbox().take() => deliver(&link, taken).await,
                () = stop.cancelled() => break,
            }
            // Sessions that are due read and write first: what they say meanwhile joins the next batch.
            yield_now().await;
        }
        deliver(&link, link.hub.inbox().try_take()).await;
        link.status.set(false);
    }
}

fn go_live(change: Change) {
    if let Change::New(channel) = change {
        channel.set_live(true);
    }
}

async fn deliver(link: &Link, taken: Vec<Outgoing>) {
    for Outgoing { channel, number, batch } in taken {
        let (messages, bytes) = (batch.len(), batch.bytes());
        append(link, &channel, number, batch);
        link.hub.inbox().settle(messages, bytes);
        channel.feed.settled().await;
    }
}

fn append(link: &Link, channel: &Channel, number: u64, batch: BatchBuilder) {
    let (metrics, messages) = (&link.metrics, batch.len() as u64);
    let _publish = telemetry::publish_span(SYSTEM).entered();
    let _relay = telemetry::relay_span(SYSTEM, channel.name.as_str(), batch.len(), "").entered();
    metrics.batch_messages.observe(messages as f64);
    let published_ns = now_ns();
    channel.feed.append(batch.build(published_ns), Some(number + messages - 1));
    let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
    metrics.publish_seconds.observe(seconds);
    metrics.relay_seconds.observe(seconds);
    metrics.messages_relayed.inc_by(messages);
}
