//! Shards: the tasks that poll the sessions. A shard owns a share of a node's sessions and waits for
//! all their sockets in a poll set of its own. A batch wakes the shard once for all its sessions on
//! that channel, which it writes to in one tight loop: see [`group`].
//!
//! A shard works in turns:
//!
//! 1. It visits sessions that are ready: those that were woken, and in a round those of a group.
//! 2. Once nothing is ready it takes in new events of sockets, wakes and new sessions. What clients
//!    send during a round is read together, after it, so that the broker gets larger batches.
//! 3. After [`TURN`] it yields to other tasks of its worker thread.
//! 4. Expensive sessions and long rounds go on for a turn after that, one at a time.
//!
//! What else was measured, as CPU per delivery and p99, each as a ratio to a bare epoll loop's in
//! the same run (first 500 clients and 64 bytes, 16 messages in flight for each of 4 publishers;
//! then 1,000 clients, 200 bytes, 1 in flight):
//!
//! | sessions are polled by | CPU | p99 |
//! |---|---|---|
//! | a shard a worker, woken once a channel, as here | 1.00, 1.10 | 1.05, 1.24 |
//! | the same, but those that have just published are not written to first: their next messages come in pieces | 1.33, 1.55 | 0.8, 0.9 |
//! | a batch wakes each session, which takes it from the feed | 1.07, 1.14 | 1.05, 1.13 |
//! | the same, and events are taken in at each turn instead of when nothing is ready | 1.06, 1.28 | 1.0, 1.3 |
//! | the same, and turns have four times the length | 1.11, 1.16 | 1.2, 1.2 |
//! | a task a session, every second task from the shared queue | 1.32, 1.08 | 0.8, 1.4 |
//! | the same with the runtime's defaults: tasks beyond its queue of 256 starve | 0.95, 0.58 | 6, 13 |
//! | the same on a runtime of one thread | 1.27, 1.22 | 1.1, 1.4 |
//!
//! Three more made no difference: `sendmsg` instead of `writev`, small batches copied together for
//! one `send`, and huge pages. Over 90 of 100 parts of a node's CPU are the kernel's, sending.

mod group;
mod members;
mod ready_queue;
mod visits;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mio::Events;
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, unconstrained};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::group::ShardGroup;
use self::members::Member;
use self::ready_queue::{ReadyQueue, Target};
use self::visits::Round;
use super::session::{Session, Tally};
use crate::metrics::Metrics;

/// How long a shard visits sessions before other tasks get their turn. Twice as long makes larger
/// batches, but they come later.
const TURN: Duration = Duration::from_millis(1);

/// A round that has lasted so long is suspended, and goes on a turn at a time.
const LONG_ROUND: Duration = Duration::from_millis(20);

/// Bytes inflated, parsed or encoded in one visit that make the next visit wait for all others: see
/// [`Shard::heavy`].
const HEAVY: usize = 64 * 1024;

/// Visits between two looks at the clock. One may write a megabyte.
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
    /// What other tasks and threads have for this shard.
    queue: Arc<ReadyQueue>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    members: Slab<Member>,
    groups: Slab<ShardGroup>,
    /// Keys of groups by the address of their feed.
    by_feed: HashMap<usize, usize>,
    /// To be visited before anything new is taken in.
    ready: VecDeque<Target>,
    /// To be visited, after an expensive last visit: one a turn, so that all others wait for no
    /// more than that.
    heavy: VecDeque<Target>,
    /// Rounds that take long: one of them goes on for a turn, each turn.
    suspended: VecDeque<Round>,
    /// The visits to a group that are going on.
    round: Option<Round>,
    /// A session has published something in this turn.
    has_published: bool,
    /// What was sent in this turn.
    tally: Tally,
    metrics: Arc<Metrics>,
}

impl Shards {
    /// This many shards, and their tasks, which do not end by themselves.
    ///
    /// # Errors
    /// If the kernel has no poll set for them.
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
        let next = AtomicUsize::new(0);
        Ok((Self { queues, next }, tasks))
    }

    /// Gives a session to one of them. The token is dropped when it has ended.
    pub(super) fn add(&self, session: Session, token: TaskTrackerToken) {
        let next = self.next.fetch_add(1, Relaxed) % self.queues.len();
        self.queues[next].push_session(Box::new(session), token);
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
            members: Slab::new(),
            groups: Slab::new(),
            by_feed: HashMap::new(),
            ready: VecDeque::new(),
            heavy: VecDeque::new(),
            suspended: VecDeque::new(),
            round: None,
            has_published: false,
            tally: Tally::default(),
            metrics,
        })
    }

    async fn run(mut self) -> Infallible {
        poll_fn(|context| self.turn(context)).await
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Infallible> {
        self.queue.register(context.waker());
        // 1. A round also shows what its group has got since the last turn.
        self.suspend_long_round();
        let carries_on = self.is_busy();
        self.has_published = false;
        self.take_for_round();
        // 2. New events only once everything is done that came before them.
        if !carries_on {
            self.take_in(context);
        }
        // 3. Visits, for as long as a turn lasts.
        let end = Instant::now() + TURN;
        while (0..VISITS).all(|_| self.visit_next()) && Instant::now() < end {}
        // 4. What is expensive, once all others have had their turn.
        if self.round.is_none() {
            self.resume_round();
            self.visit_heavy();
        }
        self.tally.count(&self.metrics);
        // After carrying on, nothing new was taken in yet.
        let has_more = !(self.heavy.is_empty() && self.suspended.is_empty());
        if carries_on || self.is_busy() || has_more {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether something is to be done before anything new is taken in.
    fn is_busy(&self) -> bool {
        self.round.is_some() || !self.ready.is_empty()
    }

    /// Takes in events of sockets, wakes and new sessions.
    fn take_in(&mut self, context: &mut Context<'_>) {
        // Cleared before the events are taken, because later ones make it ready again.
        while let Poll::Ready(Ok(mut ready)) = self.poll.poll_read_ready_mut(context) {
            ready.clear_ready();
        }
        while self.take_events() {}
        let ready = self.queue.take();
        for target in ready.woken {
            self.enqueue(target);
        }
        for (session, token) in ready.new {
            self.add(session, token);
        }
    }

    /// Takes events of sockets from the poll set. Returns whether there may be more.
    fn take_events(&mut self) -> bool {
        if let Err(error) = self
            .poll
            .get_mut()
            .poll(&mut self.events, Some(Duration::ZERO))
        {
            let was_interrupted = error.kind() == ErrorKind::Interrupted;
            if !was_interrupted {
                tracing::error!("cannot learn which sockets are ready: {error}");
            }
            return was_interrupted;
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            let key = event.token().0;
            let Some(member) = self.members.get_mut(key) else {
                continue;
            };
            if member.session.socket().note(event) && member.ready.mark() {
                let queue = if member.ready.is_heavy() {
                    &mut self.heavy
                } else {
                    &mut self.ready
                };
                queue.push_back(Target::Session(key));
            }
        }
        count == EVENTS
    }
}
