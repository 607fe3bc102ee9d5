//! From Redis to the feeds: the one ordered reader. It owns what has been heard from which node, so that a batch that was
//! published twice is heard once, and what never came is counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::super::Link;
use super::super::envelope::{Envelope, Payload};
use super::Names;
use crate::channel::ChannelName;
use crate::hub::{Channel, numbers_touch};
use crate::message::{BatchBuilder, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

/// Nodes remembered of one channel. Restarted nodes have new numbers, so old ones pile up on a channel that lives long.
const NODES: usize = 1024;

#[derive(Debug)]
pub(super) struct Relay {
    link: Link,
    names: Names,
    node: u64,
    /// The newest number heard, by channel and publishing node.
    heard: Mutex<HashMap<ChannelName, HashMap<u64, u64>>>,
}

impl Relay {
    pub(super) fn new(link: Link, names: Names, node: u64) -> Self {
        Self { link, names, node, heard: Mutex::default() }
    }

    /// Takes a payload that Redis delivered.
    pub(super) fn deliver(&self, pubsub: &str, payload: Bytes) {
        let Some(name) = self.names.channel(pubsub) else { return };
        // Lately unsubscribed, and this was on its way.
        let Some(channel) = self.link.hub.find(&name) else { return };
        match Payload::decode(payload) {
            Payload::Batch(envelope) => self.accept(&channel, envelope),
            Payload::Foreign(kind, payload) => {
                let mut batch = BatchBuilder::default();
                batch.push(kind, &payload);
                self.append(&channel, batch, now_ns(), None);
            }
            Payload::Malformed => {
                self.link.metrics.lost(LossCause::Malformed, 1);
                tracing::warn!(
                    channel = name.as_str(),
                    "dropped a payload from redis that begins like a batch and is none"
                );
            }
        }
    }

    /// Forgets a channel that has no clients here any more.
    pub(super) fn forget(&self, name: &ChannelName) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn accept(&self, channel: &Channel, envelope: Envelope) {
        let last = envelope.number + envelope.messages.len() as u64 - 1;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = heard.entry(channel.name.clone()).or_default();
        if nodes.len() >= NODES && !nodes.contains_key(&envelope.node) {
            nodes.clear();
        }
        match nodes.insert(envelope.node, last) {
            Some(before) if last <= before => {
                // Published again because the first answer was lost.
                nodes.insert(envelope.node, before);
                return;
            }
            Some(before) if !numbers_touch(before, envelope.number) => {
                self.link.metrics.lost(LossCause::Broker, envelope.number.saturating_sub(before + 1));
            }
            _ => {}
        }
        drop(heard);
        let confirms = (envelope.node == self.node).then_some(last);
        let published_ns = envelope.published_ns;
        let messages = envelope.messages.len();
        let _span = telemetry::relay_span("redis", channel.name.as_str(), messages, &envelope.traceparent).entered();
        self.append(channel, envelope.into_batch(), published_ns, confirms);
    }

    fn append(&self, channel: &Channel, batch: BatchBuilder, published_ns: u64, confirms: Option<u64>) {
        let metrics = &self.link.metrics;
        metrics.messages_relayed.inc_by(batch.len() as u64);
        channel.feed.append(batch.build(published_ns), confirms);
        metrics.relay_seconds.observe(now_ns().saturating_sub(published_ns) as f64 / 1e9);
    }
}
