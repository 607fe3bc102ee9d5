//! The sessions of a shard: how they come and go.

use std::sync::Arc;
use std::task::Waker;

use mio::Token;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Shard;
use super::group::ShardGroup;
use super::ready_queue::{ReadyWaker, Target};
use crate::client::close_reason::CloseReason;
use crate::feed::{Feed, Group};
use crate::ws::session::Session;

/// A session in its shard.
pub(super) struct Member {
    pub(super) session: Box<Session>,
    pub(super) ready: Arc<ReadyWaker>,
    /// The same as a [`Waker`].
    pub(super) waker: Waker,
    /// Key of its group.
    pub(super) group: usize,
    /// Its index among the group's waiting sessions, while it waits.
    pub(super) place: Option<usize>,
    /// Dropped when the session has ended: a drain waits for that.
    _token: TaskTrackerToken,
}

impl Shard {
    pub(super) fn add(&mut self, mut session: Box<Session>, token: TaskTrackerToken) {
        let key = self.members.vacant_key();
        let registry = self.poll.get_ref().registry();
        if let Err(error) = session.socket().register(registry, Token(key)) {
            tracing::error!("cannot watch a socket: {error}");
            return session.end(CloseReason::Internal);
        }
        // The group exists before the session takes from the feed, so that no batch falls between.
        let group = self.group_of(session.feed());
        self.groups[group].sessions += 1;
        let ready = ReadyWaker::new(&self.queue, Target::Session(key));
        // Its first visit writes the greeting and what is older than its subscription.
        ready.mark();
        ready.set_heavy(session.begins_heavy());
        self.members.insert(Member {
            session,
            waker: ready.clone().into(),
            ready,
            group,
            place: None,
            _token: token,
        });
        self.enqueue(Target::Session(key));
    }

    /// The key of a feed's group, which the first of its sessions creates.
    fn group_of(&mut self, feed: &Arc<Feed>) -> usize {
        *self
            .by_feed
            .entry(Arc::as_ptr(feed).addr())
            .or_insert_with(|| {
                let vacant = self.groups.vacant_entry();
                let key = vacant.key();
                let ready = ReadyWaker::new(&self.queue, Target::Group(key));
                vacant.insert(ShardGroup::new(
                    Group::new(feed, ready.clone().into()),
                    ready,
                ));
                key
            })
    }

    /// Ends a session that does not wait in its group.
    pub(super) fn remove(&mut self, key: usize, reason: CloseReason) {
        let Member { session, group, .. } = self.members.remove(key);
        session.end(reason);
        let sessions = &mut self.groups[group].sessions;
        *sessions -= 1;
        if *sessions == 0 {
            self.by_feed.remove(&Arc::as_ptr(session.feed()).addr());
            self.groups.remove(group);
            // Another group may get its key.
            self.round.take_if(|round| round.group == group);
            self.suspended.retain(|round| round.group != group);
        }
    }
}
