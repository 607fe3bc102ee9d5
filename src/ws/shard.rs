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
//! | the same, who spoke not written to first: what they say next comes in pieces | 1.33, 1.55 | 0.8, 0.9 |
//! | a batch wakes each session, which takes it from the feed | 1.07, 1.14 | 1.05, 1.13 |
//! | the same, events taken in at each turn instead of when nobody is due | 1.06, 1.28 | 1.0, 1.3 |
//! | the same, turns of four times the length | 1.11, 1.16 | 1.2, 1.2 |
//! | a task a session, every second task from the shared queue | 1.32, 1.08 | 0.8, 1.4 |
//! | the same, the runtime as it comes: those beyond its queue of 256 starve | 0.95, 0.58 | 6, 13 |
//! | the same on a runtime of one thread | 1.27, 1.22 | 1.1, 1.4 |
//!
//! Three more made no difference: `sendmsg` instead of `writev`, small batches copied together for
//! one `send`, and huge pages. Over 90 of 100 parts of a node's CPU are the kernel's, sending.

mod audience;
mod queue;

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

use self::audience::{Audience, Moved};
use self::queue::{Bell, Due, Queue, Round, Told};
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
    queues: Box<[Arc<Queue>]>,
    next: AtomicUsize,
}

struct Shard {
    queue: Arc<Queue>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    sessions: Slab<Housed>,
    audiences: Slab<Audience>,
    /// Keys of audiences by the address of the feed they hear.
    by_feed: HashMap<usize, usize>,
    /// Who is still to be visited before anything new is taken in: what clients say while others
    /// are written to is heard together, after that.
    due: VecDeque<Due>,
    /// Those of whom the last visit was expensive: one of them a turn, so that all others wait for
    /// no more than that.
    heavy: VecDeque<Due>,
    /// Rounds that take long: one of them goes on for a while each turn.
    suspended: VecDeque<Round>,
    /// The audience that is being visited.
    round: Option<Round>,
    /// Somebody has said something in this turn.
    spoken: bool,
    /// What was sent in this turn.
    tally: Tally,
    metrics: Arc<Metrics>,
}

struct Housed {
    session: Box<Session>,
    bell: Arc<Bell>,
    waker: Waker,
    audience: usize,
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
        let queues: Box<[Arc<Queue>]> = (0..count).map(|_| Arc::default()).collect();
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
    pub(super) fn take_in(&self, session: Session, token: TaskTrackerToken) {
        let next = self.next.fetch_add(1, Relaxed) % self.queues.len();
        self.queues[next].tell(|told| told.newcomers.push((Box::new(session), token)));
    }
}

impl Shard {
    fn new(queue: Arc<Queue>, metrics: Arc<Metrics>) -> io::Result<Self> {
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
            audiences: Slab::new(),
            by_feed: HashMap::new(),
            due: VecDeque::new(),
            heavy: VecDeque::new(),
            suspended: VecDeque::new(),
            round: None,
            spoken: false,
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
        self.spoken = false;
        self.take_for_round();
        if !carried_on {
            // Cleared before they are taken: what comes later makes it ready again.
            while let Poll::Ready(Ok(mut ready)) = self.poll.poll_read_ready_mut(context) {
                ready.clear_ready();
            }
            while self.take_events() {}
            self.take_told();
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
        self.round.is_some() || !self.due.is_empty()
    }

    /// A round shows its readers also what has come since it began.
    fn take_for_round(&mut self) {
        if let Some(Round { audience, .. }) = self.round {
            self.audiences[audience].group.take();
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
        let Some(due) = self.heavy.pop_front() else {
            return;
        };
        self.visit_due(due);
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
    fn enqueue(&mut self, due: Due) {
        let is_heavy = match due {
            Due::Session(key) => self
                .sessions
                .get(key)
                .is_some_and(|housed| housed.bell.is_heavy()),
            Due::Audience(key) => self
                .audiences
                .get(key)
                .is_some_and(|audience| audience.is_heavy()),
        };
        if is_heavy {
            self.heavy.push_back(due)
        } else {
            self.due.push_back(due)
        }
    }

    /// Learns which sockets can be read from or written to; returns whether there may be more.
    fn take_events(&mut self) -> bool {
        let Self {
            poll,
            events,
            sessions,
            due,
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
            let Some(housed) = sessions.get_mut(key) else {
                continue;
            };
            if housed.session.socket().note(event) && housed.bell.ring_silently() {
                if housed.bell.is_heavy() {
                    &mut *heavy
                } else {
                    &mut *due
                }
                .push_back(Due::Session(key));
            }
        }
        count == EVENTS
    }

    /// Learns who has come and who is woken.
    fn take_told(&mut self) {
        let Told { woken, newcomers } = self.queue.take();
        woken.into_iter().for_each(|due| self.enqueue(due));
        for (session, token) in newcomers {
            self.take_in(session, token);
        }
    }

    fn take_in(&mut self, mut session: Box<Session>, token: TaskTrackerToken) {
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
        let audience = *self
            .by_feed
            .entry(Arc::as_ptr(feed).addr())
            .or_insert_with(|| {
                let vacant = self.audiences.vacant_entry();
                let key = vacant.key();
                let bell = Bell::new(&self.queue, Due::Audience(key));
                vacant.insert(Audience::new(Group::new(feed, bell.clone().into()), bell));
                key
            });
        self.audiences[audience].sessions += 1;
        let bell = Bell::new(&self.queue, Due::Session(key));
        let waker = bell.clone().into();
        bell.ring_silently();
        bell.set_heavy(session.begins_heavy());
        vacant.insert(Housed {
            session,
            waker,
            bell,
            audience,
            place: None,
            _token: token,
        });
        self.enqueue(Due::Session(key));
    }

    fn visit(&mut self, key: usize) {
        let Some(Housed {
            session,
            waker,
            bell,
            audience,
            place,
            ..
        }) = self.sessions.get_mut(key)
        else {
            return;
        };
        let audience = &mut self.audiences[*audience];
        let said = session.said();
        // A session that fails takes no other with it.
        let (mut context, tally) = (Context::from_waker(waker), &mut self.tally);
        tally.work = 0;
        let step = catch_unwind(AssertUnwindSafe(|| {
            session.poll(&mut context, audience.group.batches(), tally)
        }));
        let step = step.unwrap_or(ControlFlow::Break(CloseReason::Internal));
        bell.set_heavy(tally.work >= HEAVY);
        audience.worked(tally.work);
        let spoke = session.said() != said;
        self.spoken |= spoke;
        let rests = step.is_continue() && session.rests();
        let moved = match *place {
            None if rests => {
                *place = Some(audience.rest(key));
                None
            }
            Some(here) if !rests => {
                *place = None;
                audience.rise(here)
            }
            Some(here) if spoke => audience.prefer(here).map(|(there, moved)| {
                *place = Some(there);
                moved
            }),
            _ => None,
        };
        if let Some(Moved { session, place }) = moved {
            self.sessions[session].place = Some(place);
        }
        if let ControlFlow::Break(reason) = step {
            self.part_with(key, reason);
        }
    }

    fn part_with(&mut self, key: usize, reason: CloseReason) {
        let Housed {
            session, audience, ..
        } = self.sessions.remove(key);
        session.end(reason);
        let sessions = &mut self.audiences[audience].sessions;
        *sessions -= 1;
        if *sessions == 0 {
            self.by_feed.remove(&Arc::as_ptr(session.feed()).addr());
            self.audiences.remove(audience);
            self.round.take_if(|round| round.audience == audience);
            // Another audience may get its key.
            self.suspended.retain(|round| round.audience != audience);
        }
    }

    /// Visits whoever is next; returns whether to go on.
    fn visit_next(&mut self) -> bool {
        if self.round.is_some() {
            self.go_round();
            return true;
        }
        match self.due.front() {
            // First the broker takes it: then those who hear get it together with the rest.
            Some(Due::Audience(_)) if self.spoken => return false,
            Some(due) => {
                let due = *due;
                self.due.pop_front();
                self.visit_due(due);
            }
            None => return false,
        }
        true
    }

    fn visit_due(&mut self, due: Due) {
        match due {
            Due::Audience(key) => {
                let Some(audience) = self.audiences.get_mut(key) else {
                    return;
                };
                self.round = Some(Round {
                    audience: key,
                    left: audience.begin(),
                    began: Instant::now(),
                });
                self.go_round();
            }
            Due::Session(key) => {
                if let Some(Housed { bell, .. }) = self.sessions.get(key) {
                    bell.hush();
                }
                self.visit(key);
            }
        }
    }

    /// Visits one of those who are left.
    fn go_round(&mut self) {
        let Some(round) = &mut self.round else { return };
        let next = self.audiences[round.audience].next(round.left);
        round.left = next.map_or(0, |(_, left)| left);
        if let Some((session, _)) = next {
            self.visit(session);
        }
        if let Some(Round {
            audience, left: 0, ..
        }) = self.round
        {
            self.round = None;
            let Audience { group, bell, .. } = &mut self.audiences[audience];
            if group.settle() {
                bell.wake_by_ref();
            }
        }
    }
}
