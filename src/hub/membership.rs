//! Memberships: a channel counts its clients on this node, and stays a while after the last one left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Channel, Hub, LINGER, lock};

/// One client of a channel. Dropping it ends the membership.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(super) channel: Arc<Channel>,
    pub(super) hub: Arc<Hub>,
    pub(super) subscribes: bool,
}

impl Membership {
    /// Another membership of the same channel.
    pub(crate) fn again(&self) -> Self {
        let mut channels = lock(&self.hub.channels);
        if let Some(entry) = channels.by_name.get_mut(&self.channel.name) {
            entry.add_member(self.subscribes);
        }
        Self {
            channel: self.channel.clone(),
            hub: self.hub.clone(),
            subscribes: self.subscribes,
        }
    }

    /// The channel.
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.leave(&self.channel, self.subscribes);
    }
}

impl Hub {
    fn leave(&self, channel: &Channel, subscribed: bool) {
        let mut channels = lock(&self.channels);
        let Some(entry) = channels.by_name.get_mut(&channel.name) else {
            return;
        };
        entry.members -= 1;
        entry.subscribers -= usize::from(subscribed);
        if entry.members == 0 {
            channels.expire(&channel.name, Instant::now() + self.stay(channel));
        }
    }

    /// How long a channel stays without clients.
    fn stay(&self, channel: &Channel) -> Duration {
        match channel.feed.idle() {
            // This node alone keeps the history, so the channel stays as long as its messages do.
            Some(silent) if self.keep_idle => self.retention.ttl.saturating_sub(silent).max(LINGER),
            _ => LINGER,
        }
    }
}
