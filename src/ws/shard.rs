//! Shards: who polls the sessions. A shard is one task that owns a share of a node's sessions and waits for all their
//! sockets in a poll set of its own. Whoever a batch wakes is written to in one tight loop, and what clients say while
//! that runs is heard together, after it.
//!
//! What else was measured, as CPU per delivery and p99, each as a ratio to a bare epoll loop's in the same run (first 500
//! clients and 64 bytes, 16 messages in flight for each of 4 publishers; then 1,000 clients, 200 bytes, 1 in flight):
//!
//! | who polls | CPU | p99 |
//! |---|---|---|
//! | a shard a worker, as here | 1.03, 1.07 | 1.05, 1.02 |
//! | the same, events taken in at each turn instead of when nobody is due | 1.06, 1.28 | 1.0, 1.3 |
//! | the same, turns of four times the length | 1.11, 1.16 | 1.2, 1.2 |
//! | a task a session, every second task from the shared queue | 1.32, 1.08 | 0.8, 1.4 |
//! | the same, the runtime as it comes: those beyond its queue of 256 starve | 0.95, 0.58 | 6, 13 |
//! | the same on a runtime of one thread | 1.27, 1.22 | 1.1, 1.4 |
//!
//! Three more made no difference: `sendmsg` instead of `writev`, small batches copied together for one `send`, and huge
//! pages. 90 of 100 parts of a node's CPU are the kernel's, sending; 7 are ours.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use mio::{Events, Token};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, unconstrained};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::close::CloseReason;
use super::session::Session;

/// How long a shard visits sessions before other tasks get their turn. Twice as long makes larger batches, but they come
/// later.
const TURN: Duration = Duration::from_millis(1);

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

/// What others tell a shard.
#[derive(Debug, Default)]
struct Queue {
    told: Mutex<Told>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct Told {
    /// Keys of sessions to be visited.
    woken: Vec<usize>,
    newcomers: Vec<(Box<Session>, TaskTrackerToken)>,
}

/// Wakes one session.
#[derive(Debug)]
struct Bell {
    queue: Arc<Queue>,
    key: usize,
    /// It is to be visited already.
    rung: AtomicBool,
}

struct Shard {
    queue: Arc<Queue>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    sessions: Slab<Housed>,
    /// Keys of sessions still to be visited before anything new is taken in: what clients say while others are written to
    /// is heard together, after that. One that has left meanwhile may be among them.
    due: VecDeque<usize>,
}

struct Housed {
    session: Box<Session>,
    bell: Arc<Bell>,
    waker: Waker,
    _token: TaskTrackerToken,
}

impl Shards {
    /// This many shards, and their tasks: these do not end by themselves.
    ///
    /// # Errors
    /// If there is no poll set to be had.
    pub fn spawn(count: usize) -> io::Result<(Self, JoinSet<Infallible>)> {
        let queues: Box<[Arc<Queue>]> = (0..count).map(|_| Arc::default()).collect();
        let shards: Vec<_> = queues.iter().map(|queue| Shard::new(queue.clone())).collect::<io::Result<_>>()?;
        let mut tasks = JoinSet::new();
        for shard in shards {
            tasks.spawn(unconstrained(shard.run()));
        }
        Ok((Self { queues, next: AtomicUsize::new(0) }, tasks))
    }

    /// Gives a session to one of them; the token goes when it has ended.
    pub(super) fn take_in(&self, session: Session, token: TaskTrackerToken) {
        let next = self.next.fetch_add(1, Relaxed) % self.queues.len();
        self.queues[next].tell(|told| told.newcomers.push((Box::new(session), token)));
    }
}

impl Queue {
    fn tell(&self, what: impl FnOnce(&mut Told)) {
        let mut told = self.lock();
        let first = told.woken.is_empty() && told.newcomers.is_empty();
        what(&mut told);
        drop(told);
        if first {
            self.task.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, AcqRel) {
            self.queue.tell(|told| told.woken.push(self.key));
        }
    }
}

impl Shard {
    fn new(queue: Arc<Queue>) -> io::Result<Self> {
        #[expect(deprecated, reason = "sound here, a poll set keeps its descriptor; the other constructor is unsafe")]
        let poll = AsyncFd::with_interest(mio::Poll::new()?, Interest::READABLE)?;
        Ok(Self { queue, poll, events: Events::with_capacity(EVENTS), sessions: Slab::new(), due: VecDeque::new() })
    }

    async fn run(mut self) -> Infallible {
        poll_fn(|context| self.turn(context)).await
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Infallible> {
        self.queue.task.register(context.waker());
        let carried_on = !self.due.is_empty();
        if !carried_on {
            // Cleared before they are taken: what comes later makes it ready again.
            while let Poll::Ready(Ok(mut ready)) = self.poll.poll_read_ready_mut(context) {
                ready.clear_ready();
            }
            while self.take_events() {}
            self.take_told();
        }
        let end = Instant::now() + TURN;
        while !self.due.is_empty() && Instant::now() < end {
            for _ in 0..VISITS {
                let Some(key) = self.due.pop_front() else { break };
                self.visit(key);
            }
        }
        if carried_on || !self.due.is_empty() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Learns which sockets can be read from or written to; returns whether there may be more.
    fn take_events(&mut self) -> bool {
        let Self { poll, events, sessions, due, .. } = self;
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
            let Some(housed) = sessions.get_mut(key) else { continue };
            if housed.session.socket().note(event) && !housed.bell.rung.swap(true, AcqRel) {
                due.push_back(key);
            }
        }
        count == EVENTS
    }

    /// Learns who has come and who is woken.
    fn take_told(&mut self) {
        let Told { woken, newcomers } = std::mem::take(&mut *self.queue.lock());
        self.due.extend(woken);
        for (session, token) in newcomers {
            self.take_in(session, token);
        }
    }

    fn take_in(&mut self, mut session: Box<Session>, token: TaskTrackerToken) {
        let vacant = self.sessions.vacant_entry();
        let key = vacant.key();
        if let Err(error) = session.socket().register(self.poll.get_ref().registry(), Token(key)) {
            tracing::error!("cannot watch a socket: {error}");
            return session.end(CloseReason::Internal);
        }
        let bell = Arc::new(Bell { queue: self.queue.clone(), key, rung: AtomicBool::new(true) });
        vacant.insert(Housed { session, waker: bell.clone().into(), bell, _token: token });
        self.due.push_back(key);
    }

    fn visit(&mut self, key: usize) {
        let Some(Housed { session, bell, waker, .. }) = self.sessions.get_mut(key) else { return };
        bell.rung.swap(false, AcqRel);
        // A session that fails takes no other with it.
        let step = catch_unwind(AssertUnwindSafe(|| session.poll(&mut Context::from_waker(waker))));
        if let ControlFlow::Break(reason) = step.unwrap_or(ControlFlow::Break(CloseReason::Internal)) {
            session.end(reason);
            self.sessions.remove(key);
        }
    }
}
