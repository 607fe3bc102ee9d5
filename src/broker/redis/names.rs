//! The names of pub/sub channels and keys in Redis.

use std::sync::Arc;

use crate::channel::ChannelName;

/// All names begin with the deployment's prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: Arc<str>,
    /// The beginning of the names of pub/sub channels. Redis has these once for all databases, so
    /// that the number of any but 0 is part of it.
    pubsub_prefix: Arc<str>,
}

impl Names {
    pub(super) fn new(prefix: &str, database: i64) -> Self {
        let pubsub_prefix = if database == 0 {
            prefix.into()
        } else {
            format!("{prefix}:db{database}").into()
        };
        Self {
            prefix: prefix.into(),
            pubsub_prefix,
        }
    }

    /// The pub/sub channel of a channel. The braces keep all names of a channel in one cluster
    /// slot.
    pub(super) fn pubsub(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}", self.pubsub_prefix)
    }

    /// The stream that keeps a channel's history: an entry a batch, its id the offset of the
    /// batch's last message, and the bytes that the history has cost up to there.
    pub(super) fn stream(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:history", self.prefix)
    }

    /// The hash that counts a channel's offsets and bytes, names its epoch, and remembers what was
    /// published last by which node.
    pub(super) fn meta(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:meta", self.prefix)
    }

    /// The sorted set of the keys that messages in the history were given, each with the message's
    /// offset, and beside each the same with the message's digest.
    pub(super) fn keys(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}:keys", self.prefix)
    }

    /// A pub/sub channel on which a node receives its own probes. No channel can be called that.
    pub(super) fn probe(&self, node: u64, number: u32) -> String {
        format!("{}:probe:{node:016x}:{number}", self.prefix)
    }

    /// A key for [`super::fitness`]: in the slot of `tag`, and of no channel.
    pub(super) fn rehearsal(&self, tag: &str, kind: &str) -> String {
        format!("{}:{{{tag}}}:rehearsal:{kind}", self.prefix)
    }

    /// The channel that a pub/sub channel belongs to.
    pub(super) fn channel(&self, pubsub: &str) -> Option<ChannelName> {
        let name = pubsub
            .strip_prefix(&*self.pubsub_prefix)?
            .strip_prefix(":{")?
            .strip_suffix('}')?;
        ChannelName::new(name).ok()
    }
}
