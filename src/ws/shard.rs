//! Shards: who polls the sessions. A shard is one task that owns a share of a node's sessions and
//! waits for all their sockets in a poll set of its own. A batch wakes the shard once for all its
//! sessions on that channel; they are written to in one tight loop, and what clients say while that
//! runs is heard together, after it.
//!
//! What else was measured, as CPU per delivery and p99, each as a ratio to a bare epoll loop's in
//! the same run (first 500 clients and 64 bytes, 16 messages in flight for each of 4 publishers;
//! then 1,000 clients, 200 bytes, 1 in flight):
//!
//! | who polls | CPU | p99 |
//! |---|---|---|
//! | a shard a worker, woken once a channel, as here | 1.00, 1.10 | 1.05, 1.24 |
//! | the same, who published not written to first: what they say next comes in pieces | 1.33, 1.55 | 0.8, 0.9 |
//! | a batch wakes each session, which takes it from the feed | 1.07, 1.14 | 1.05, 1.13 |
//! | the same, events taken in at each turn instead of when nobody is due | 1.06, 1.28 | 1.0, 1.3 |
//! | the same, turns of four times the length | 1.11, 1.16 | 1.2, 1.2 |
//! | a task a session, every second task from the shared queue | 1.32, 1.08 | 0.8, 1.4 |
//! | the same, the runtime as it comes: those beyond its queue of 256 starve | 0.95, 0.58 | 6, 13 |
//! | the same on a runtime of one thread | 1.27, 1.22 | 1.1, 1.4 |
//!
//! Three more made no difference: `sendmsg` instead of `writev`, small batches copied together for
//! one `send`, and huge pages. Over 90 of 100 parts of a node's CPU are the kernel's, sending.

mod group;
mod ready_queue;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mio::{Events, Token};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, unconstrained};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::group::{Moved, ShardGroup};
use self::ready_queue::{Ready, ReadyQueue, ReadyWaker, Round, Target};
use super::session::{Session, Tally};
use crate::client::close_reason::CloseReason;
use crate::feed::Group;
use crate::metrics::Metrics;

/// How long a shard visits sessions before other tasks get their turn. Twice as long makes larger
/// batches, but they come later.
const TURN: Duration = Duration::from_millis(1);

/// A round that has lasted so long gives way to others, and goes on a turn at a time.
const LONG_ROUND: Duration = Duration::from_millis(20);

/// Bytes inflated, parsed or encoded in one visit that make the next visit wait for all others: see
/// [`Shard::heavy`].
const HEAVY: usize = 64 * 1024;

/// Visits between two looks at the clock: one may write a megabyte.
const VISITS: usize = 4;

/// Events taken from a poll set at once.
const EVENTS: usize = 1024;

/// All shards of a node.
#[derive(Debug)]
pub struct Shards {
    queues: Box<[Arc<ReadyQueue>]>,
    next: AtomicUsize,
}

struct Shard {
    queue: Arc<ReadyQueue>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    sessions: Slab<Member>,
    groups: Slab<ShardGroup>,
    /// Keys of groups by the address of the feed they hear.
    by_feed: HashMap<usize, usize>,
    /// Who is still to be visited before anything new is taken in: what clients say while others
    /// are written to is heard together, after that.
    ready: VecDeque<Target>,
    /// Those of whom the last visit was expensive: one of them a turn, so that all others wait for
    /// no more than that.
    heavy: VecDeque<Target>,
    /// Rounds that take long: one of them goes on for a while each turn.
    suspended: VecDeque<Round>,
    /// The group that is being visited.
    round: Option<Round>,
    /// Somebody has said something in this turn.
    published: bool,
    /// What was sent in this turn.
    tally: Tally,
    metrics: Arc<Metrics>,
}

struct Member {
    session: Box<Session>,
    ready: Arc<ReadyWaker>,
    waker: Waker,
    group: usize,
    /// Its place among those who rest there.
    place: Option<usize>,
    _token: TaskTrackerToken,
}

impl Shards {
    /// This many shards, and their tasks: these do not end by themselves.
    ///
    /// # Errors
    /// If there is no poll set to be had.
    pub fn spawn(count: usize, metrics: &Arc<Metrics>) -> io::Result<(Self, JoinSet<Infallible>)> {
        let queues: Box<[Arc<ReadyQueue>]> = (0..count).map(|_| Arc::default()).collect();
        let shards: Vec<_> = queues
            .iter()
            .map(|queue| Shard::new(queue.clone(), metrics.clone()))
            .collect::<io::Result<_>>()?;
        let mut tasks = JoinSet::new();
        for shard in shards {
            tasks.spawn(unconstrained(shard.run()));
        }
        Ok((
            Self {
                queues,
                next: AtomicUsize::new(0),
            },
            tasks,
        ))
    }

    /// Gives a session to one of them; the token goes when it has ended.
    pub(super) fn add(&self, session: Session, token: TaskTrackerToken) {
        let next = self.next.fetch_add(1, Relaxed) % self.queues.len();
        self.queues[next].push(|ready| ready.newcomers.push((Box::new(session), token)));
    }
}

impl Shard {
    fn new(queue: Arc<ReadyQueue>, metrics: Arc<Metrics>) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "sound here, a poll set keeps its descriptor; the other constructor is unsafe"
        )]
        let poll = AsyncFd::with_interest(mio::Poll::new()?, Interest::READABLE)?;
        Ok(Self {
            queue,
            poll,
            events: Events::with_capacity(EVENTS),
            sessions: Slab::new(),
            groups: Slab::new(),
            by_feed: HashMap::new(),
            ready: VecDeque::new(),
            heavy: VecDeque::new(),
            suspended: VecDeque::new(),
            round: None,
            published: false,
            tally: Tally::default(),
            metrics,
        })
    }

    async fn run(mut self) -> Infallible {
        poll_fn(|context| self.turn(context)).await
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Infallible> {
        self.queue.register(context.waker());
        self.suspend_long_round();
        let carried_on = self.is_busy();
        self.published = false;
        self.take_for_round();
        if !carried_on {
            // Cleared before they are taken: what comes later makes it ready again.
            while let Poll::Ready(Ok(mut ready)) = self.poll.poll_read_ready_mut(context) {
                ready.clear_ready();
            }
            while self.take_events() {}
            self.take_ready();
        }
        let end = Instant::now() + TURN;
        while (0..VISITS).all(|_| self.visit_next()) && Instant::now() < end {}
        if self.round.is_none() {
            self.resume_round();
            self.visit_heavy();
        }
        self.tally.count(&self.metrics);
        if carried_on || self.is_busy() || !(self.heavy.is_empty() && self.suspended.is_empty()) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether there is something to do before anything new is taken in.
    fn is_busy(&self) -> bool {
        self.round.is_some() || !self.ready.is_empty()
    }

    /// A round shows its readers also what has come since it began.
    fn take_for_round(&mut self) {
        if let Some(Round { group, .. }) = self.round {
            self.groups[group].feed.take();
        }
    }

    fn suspend_long_round(&mut self) {
        if let Some(round) = self
            .round
            .take_if(|round| round.began.elapsed() >= LONG_ROUND)
        {
            self.suspended.push_back(round);
        }
    }

    /// Goes on with a long round for a turn.
    fn resume_round(&mut self) {
        let Some(round) = self.suspended.pop_front() else {
            return;
        };
        self.round = Some(round);
        self.take_for_round();
        self.go_round_for_a_turn();
    }

    /// Makes one expensive visit.
    fn visit_heavy(&mut self) {
        let Some(target) = self.heavy.pop_front() else {
            return;
        };
        self.visit_target(target);
        self.go_round_for_a_turn();
    }

    /// The rest of the round is for later turns.
    fn go_round_for_a_turn(&mut self) {
        let end = Instant::now() + TURN;
        while self.round.is_some() && Instant::now() < end {
            self.go_round();
        }
        self.suspended.extend(self.round.take());
    }

    /// Takes note that somebody is to be visited.
    fn enqueue(&mut self, target: Target) {
        let is_heavy = match target {
            Target::Session(key) => self
                .sessions
                .get(key)
                .is_some_and(|member| member.ready.is_heavy()),
            Target::Group(key) => self.groups.get(key).is_some_and(|group| group.is_heavy()),
        };
        if is_heavy {
            self.heavy.push_back(target)
        } else {
            self.ready.push_back(target)
        }
    }

    /// Learns which sockets can be read from or written to; returns whether there may be more.
    fn take_events(&mut self) -> bool {
        let Self {
            poll,
            events,
            sessions,
            ready,
            heavy,
            ..
        } = self;
        if let Err(error) = poll.get_mut().poll(events, Some(Duration::ZERO)) {
            if error.kind() != ErrorKind::Interrupted {
                tracing::error!("cannot learn which sockets are ready: {error}");
            }
            return error.kind() == ErrorKind::Interrupted;
        }
        let mut count = 0;
        for event in &*events {
            count += 1;
            let key = event.token().0;
            let Some(member) = sessions.get_mut(key) else {
                continue;
            };
            if member.session.socket().note(event) && member.ready.mark() {
                if member.ready.is_heavy() {
                    &mut *heavy
                } else {
                    &mut *ready
                }
                .push_back(Target::Session(key));
            }
        }
        count == EVENTS
    }

    /// Learns who has come and who is woken.
    fn take_ready(&mut self) {
        let Ready { woken, newcomers } = self.queue.take();
        woken.into_iter().for_each(|target| self.enqueue(target));
        for (session, token) in newcomers {
            self.add(session, token);
        }
    }

    fn add(&mut self, mut session: Box<Session>, token: TaskTrackerToken) {
        let vacant = self.sessions.vacant_entry();
        let key = vacant.key();
        if let Err(error) = session
            .socket()
            .register(self.poll.get_ref().registry(), Token(key))
        {
            tracing::error!("cannot watch a socket: {error}");
            return session.end(CloseReason::Internal);
        }
        let feed = session.feed();
        let group = *self
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
            });
        self.groups[group].sessions += 1;
        let ready = ReadyWaker::new(&self.queue, Target::Session(key));
        let waker = ready.clone().into();
        ready.mark();
        ready.set_heavy(session.begins_heavy());
        vacant.insert(Member {
            session,
            waker,
            ready,
            group,
            place: None,
            _token: token,
        });
        self.enqueue(Target::Session(key));
    }

    fn visit(&mut self, key: usize) {
        let Some(Member {
            session,
            waker,
            ready,
            group,
            place,
            ..
        }) = self.sessions.get_mut(key)
        else {
            return;
        };
        let group = &mut self.groups[*group];
        let said = session.said();
        // A session that fails takes no other with it.
        let (mut context, tally) = (Context::from_waker(waker), &mut self.tally);
        tally.work = 0;
        let step = catch_unwind(AssertUnwindSafe(|| {
            session.poll(&mut context, group.feed.batches(), tally)
        }));
        let step = step.unwrap_or(ControlFlow::Break(CloseReason::Internal));
        ready.set_heavy(tally.work >= HEAVY);
        group.worked(tally.work);
        let published = session.said() != said;
        self.published |= published;
        let rests = step.is_continue() && session.rests();
        let moved = match *place {
            None if rests => {
                *place = Some(group.rest(key));
                None
            }
            Some(here) if !rests => {
                *place = None;
                group.rise(here)
            }
            Some(here) if published => group.prefer(here).map(|(there, moved)| {
                *place = Some(there);
                moved
            }),
            _ => None,
        };
        if let Some(Moved { session, place }) = moved {
            self.sessions[session].place = Some(place);
        }
        if let ControlFlow::Break(reason) = step {
            self.remove(key, reason);
        }
    }

    fn remove(&mut self, key: usize, reason: CloseReason) {
        let Member { session, group, .. } = self.sessions.remove(key);
        session.end(reason);
        let sessions = &mut self.groups[group].sessions;
        *sessions -= 1;
        if *sessions == 0 {
            self.by_feed.remove(&Arc::as_ptr(session.feed()).addr());
            self.groups.remove(group);
            self.round.take_if(|round| round.group == group);
            // Another group may get its key.
            self.suspended.retain(|round| round.group != group);
        }
    }

    /// Visits whoever is next; returns whether to go on.
    fn visit_next(&mut self) -> bool {
        if self.round.is_some() {
            self.go_round();
            return true;
        }
        match self.ready.front() {
            // First the broker takes it: then those who hear get it together with the rest.
            Some(Target::Group(_)) if self.published => return false,
            Some(target) => {
                let target = *target;
                self.ready.pop_front();
                self.visit_target(target);
            }
            None => return false,
        }
        true
    }

    fn visit_target(&mut self, target: Target) {
        match target {
            Target::Group(key) => {
                let Some(group) = self.groups.get_mut(key) else {
                    return;
                };
                self.round = Some(Round {
                    group: key,
                    left: group.begin(),
                    began: Instant::now(),
                });
                self.go_round();
            }
            Target::Session(key) => {
                if let Some(Member { ready, .. }) = self.sessions.get(key) {
                    ready.clear();
                }
                self.visit(key);
            }
        }
    }

    /// Visits one of those who are left.
    fn go_round(&mut self) {
        let Some(round) = &mut self.round else { return };
        let next = self.groups[round.group].next(round.left);
        round.left = next.map_or(0, |(_, left)| left);
        if let Some((session, _)) = next {
            self.visit(session);
        }
        if let Some(Round { group, left: 0, .. }) = self.round {
            self.round = None;
            let ShardGroup { feed, ready, .. } = &mut self.groups[group];
            if feed.settle() {
                ready.wake_by_ref();
            }
        }
    }
}
