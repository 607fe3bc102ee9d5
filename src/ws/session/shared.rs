//! The parts of a node that all its sessions use.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::client::keepalive::Keepalive;
use crate::client::rate::PublishLimits;
use crate::config::SlowClient;
use crate::frame::Limits;
use crate::hub::Hub;
use crate::metrics::{Metrics, Transport};

/// The parts of a node that all its sessions use.
#[derive(Debug)]
pub struct Shared {
    /// The channels, and the inbox for their messages.
    pub hub: Arc<Hub>,
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes WebSockets to ping, and to leave when the node drains.
    pub keepalive: Arc<Keepalive>,
    /// Wakes event streams to send a comment, and to leave when the node drains.
    pub event_keepalive: Arc<Keepalive>,
    /// Bounds of a client's messages.
    pub limits: Limits,
    /// How fast a client may publish.
    pub publish: PublishLimits,
    /// What happens to clients that lag beyond the feed.
    pub slow_client: SlowClient,
    /// Whether each message is logged.
    pub log_messages: bool,
    /// The id of this node, which welcomes name.
    pub node: u64,
    /// Numbers the connections that do not want their own messages.
    pub senders: AtomicU32,
}

impl Shared {
    /// How long a client of a draining node should wait before it comes back, in milliseconds.
    /// Random, so that the clients of a slot do not come back together. At least half a second,
    /// because `EventSource` keeps this delay for all later reconnects.
    pub fn retry_ms(&self) -> u64 {
        rand::random_range(500..1500)
    }

    pub(super) fn keepalive(&self, transport: Transport) -> &Arc<Keepalive> {
        if transport == Transport::Events {
            &self.event_keepalive
        } else {
            &self.keepalive
        }
    }
}
