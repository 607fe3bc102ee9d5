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
    /// Where messages go.
    pub hub: Arc<Hub>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Wakes WebSockets to ping and to leave.
    pub keepalive: Arc<Keepalive>,
    /// Wakes event streams to comment and to leave.
    pub event_keepalive: Arc<Keepalive>,
    /// Bounds of a client's messages.
    pub limits: Limits,
    /// How fast a client may publish.
    pub publish: PublishLimits,
    /// The fate of slow readers.
    pub slow_client: SlowClient,
    /// Whether each message is logged.
    pub log_messages: bool,
    /// Tells this node from others.
    pub node: u64,
    /// Gives connections that do not want to hear themselves a number each.
    pub senders: AtomicU32,
}

impl Shared {
    /// How long a client that is sent away should wait, in milliseconds: not all of a slot at the
    /// same moment, and not so short that event streams, which keep it for good, would hurry after
    /// every failure.
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
