//! What others push a shard: who is to be visited, and who has come.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ws::session::Session;

#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    ready: Mutex<Ready>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) woken: Vec<Target>,
    pub(super) newcomers: Vec<(Box<Session>, TaskTrackerToken)>,
}

/// Who is to be visited. It may have left meanwhile, and its key be another's: one visit too many
/// does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Session(usize),
    /// All who rest in an group.
    Group(usize),
}

/// Visits to an group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) group: usize,
    /// How many of those who rest are still to be visited.
    pub(super) left: usize,
    pub(super) began: Instant,
}

/// Wakes a session or an group.
#[derive(Debug)]
pub(super) struct ReadyWaker {
    queue: Arc<ReadyQueue>,
    target: Target,
    /// It is to be visited already.
    rung: AtomicBool,
    /// The last visit was expensive. Read and written by the shard alone; here it takes no memory
    /// of its own.
    heavy: AtomicBool,
}

impl ReadyQueue {
    /// The task that is woken when there is something.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub(super) fn push(&self, what: impl FnOnce(&mut Ready)) {
        let mut ready = self.lock();
        let first = ready.woken.is_empty() && ready.newcomers.is_empty();
        what(&mut ready);
        drop(ready);
        if first {
            self.task.wake();
        }
    }

    pub(super) fn take(&self) -> Ready {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyWaker {
    pub(super) fn new(queue: &Arc<ReadyQueue>, target: Target) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.clone(),
            target,
            rung: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
        })
    }

    /// Marks as to be visited without telling the queue; returns whether it was not.
    pub(super) fn mark(&self) -> bool {
        !self.rung.swap(true, AcqRel)
    }

    /// Remembers whether the last visit was expensive.
    pub(super) fn set_heavy(&self, heavy: bool) {
        self.heavy.store(heavy, Relaxed);
    }

    /// Whether the last visit was expensive.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy.load(Relaxed)
    }

    /// The visit begins: whatever comes from now on needs another one.
    pub(super) fn clear(&self) {
        self.rung.swap(false, AcqRel);
    }
}

impl Wake for ReadyWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.mark() {
            self.queue.push(|ready| ready.woken.push(self.target));
        }
    }
}
