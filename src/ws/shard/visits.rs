//! The visits of a shard: which session is polled next, and what follows from the poll.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Wake};
use std::time::Instant;

use super::group::{Moved, ShardGroup};
use super::members::Member;
use super::ready_queue::Target;
use super::{HEAVY, LONG_ROUND, Shard, TURN};
use crate::client::close_reason::CloseReason;
use crate::ws::session::Tally;

/// Visits to the waiting sessions of a group, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// The group's key.
    pub(super) group: usize,
    /// How many sessions are still to be visited.
    left: usize,
    began: Instant,
}

/// The result of one visit.
struct Visit {
    /// Why the session has ended, if it has.
    ended: Option<CloseReason>,
    /// Whether it waits in its group.
    waits: bool,
    /// Whether its client has published something.
    published: bool,
}

impl Shard {
    /// Queues a session or group that was woken.
    pub(super) fn enqueue(&mut self, target: Target) {
        if self.is_heavy(target) {
            self.heavy.push_back(target);
        } else {
            self.ready.push_back(target);
        }
    }

    /// Whether its last visit was expensive.
    fn is_heavy(&self, target: Target) -> bool {
        match target {
            Target::Session(key) => {
                let member = self.members.get(key);
                member.is_some_and(|member| member.ready.is_heavy())
            }
            Target::Group(key) => {
                let group = self.groups.get(key);
                group.is_some_and(ShardGroup::is_heavy)
            }
        }
    }

    /// Makes the next visit. Returns whether to go on.
    pub(super) fn visit_next(&mut self) -> bool {
        if self.round.is_some() {
            self.continue_round();
            return true;
        }
        match self.ready.front() {
            // Clients have published in this turn. The broker takes that first, so that the group
            // gets it in the same round.
            Some(Target::Group(_)) if self.has_published => false,
            Some(&target) => {
                self.ready.pop_front();
                self.visit_target(target);
                true
            }
            None => false,
        }
    }

    fn visit_target(&mut self, target: Target) {
        match target {
            Target::Group(key) => self.begin_round(key),
            Target::Session(key) => {
                // Cleared before the visit: what comes during it needs another one.
                if let Some(member) = self.members.get(key) {
                    member.ready.clear();
                }
                self.visit(key);
            }
        }
    }

    fn begin_round(&mut self, key: usize) {
        if let Some(group) = self.groups.get_mut(key) {
            self.round = Some(Round {
                group: key,
                left: group.begin_round(),
                began: Instant::now(),
            });
            self.continue_round();
        }
    }

    /// Visits the next session of the round, and ends the round after the last.
    #[inline(always)] // once a visit
    fn continue_round(&mut self) {
        let Some(round) = &mut self.round else { return };
        let key = round.group;
        let next = self.groups[key].next(round.left);
        round.left = next.map_or(0, |next| next.left);
        let is_last = round.left == 0;
        if let Some(next) = next {
            self.visit(next.session);
        }
        // Unless the group went with its last session.
        if is_last && self.round.take().is_some() {
            let group = &mut self.groups[key];
            // Batches have come during the round that some of its sessions were not shown.
            if group.feed.settle() {
                group.ready.wake_by_ref();
            }
        }
    }

    /// The round also shows the batches that its group has got since it began.
    pub(super) fn take_for_round(&mut self) {
        if let Some(Round { group, .. }) = self.round {
            self.groups[group].feed.take();
        }
    }

    pub(super) fn suspend_long_round(&mut self) {
        let is_long = |round: &mut Round| round.began.elapsed() >= LONG_ROUND;
        self.suspended.extend(self.round.take_if(is_long));
    }

    /// Goes on with a suspended round for a turn.
    pub(super) fn resume_round(&mut self) {
        if let Some(round) = self.suspended.pop_front() {
            self.round = Some(round);
            self.take_for_round();
            self.continue_round_for_a_turn();
        }
    }

    /// Makes one expensive visit, or begins an expensive round.
    pub(super) fn visit_heavy(&mut self) {
        if let Some(target) = self.heavy.pop_front() {
            self.visit_target(target);
            self.continue_round_for_a_turn();
        }
    }

    /// Goes on with the round for a turn. The rest of it is for later turns.
    fn continue_round_for_a_turn(&mut self) {
        let end = Instant::now() + TURN;
        while self.round.is_some() && Instant::now() < end {
            self.continue_round();
        }
        self.suspended.extend(self.round.take());
    }

    fn visit(&mut self, key: usize) {
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        let group = &mut self.groups[member.group];
        let visit = member.poll(group, &mut self.tally);
        self.has_published |= visit.published;
        if let Some(Moved { session, place }) = member.find_place(key, group, &visit) {
            self.members[session].place = Some(place);
        }
        if let Some(reason) = visit.ended {
            self.remove(key, reason);
        }
    }
}

impl Member {
    #[inline]
    fn poll(&mut self, group: &mut ShardGroup, tally: &mut Tally) -> Visit {
        let before = self.session.published();
        let mut context = Context::from_waker(&self.waker);
        tally.work = 0;
        // A session that panics takes no other with it.
        let step = catch_unwind(AssertUnwindSafe(|| {
            self.session.poll(&mut context, group.feed.batches(), tally)
        }));
        let ended = match step {
            Ok(ControlFlow::Continue(())) => None,
            Ok(ControlFlow::Break(reason)) => Some(reason),
            Err(_) => Some(CloseReason::Internal),
        };
        // Expensive visits of a session, or of its group, wait behind all others next time.
        self.ready.set_heavy(tally.work >= HEAVY);
        group.add_work(tally.work);
        Visit {
            waits: ended.is_none() && self.session.rests(),
            published: self.session.published() != before,
            ended,
        }
    }

    /// Gives the session its place among those that wait in its group, or takes it away. Returns
    /// the other session that has moved for that.
    #[inline]
    fn find_place(&mut self, key: usize, group: &mut ShardGroup, visit: &Visit) -> Option<Moved> {
        match self.place {
            None if visit.waits => {
                self.place = Some(group.insert(key));
                None
            }
            Some(here) if !visit.waits => {
                self.place = None;
                group.remove(here)
            }
            Some(here) if visit.published => {
                let swap = group.prefer(here)?;
                self.place = Some(swap.place);
                Some(swap.moved)
            }
            _ => None,
        }
    }
}
