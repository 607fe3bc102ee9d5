//! The ready queue: what other threads have for a shard, which are sessions and groups to be visited
//! and new sessions. Pushing wakes the shard's task.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ws::session::Session;

/// Needs no bound of its own: each session and group is in it at most once.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    ready: Mutex<Ready>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) woken: Vec<Target>,
    pub(super) new: Vec<(Box<Session>, TaskTrackerToken)>,
}

/// The key of what is to be visited. It may have left meanwhile, and another may have its key. That
/// one is then visited once too often, which does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Session(usize),
    /// All sessions that wait in a group.
    Group(usize),
}

/// Wakes a session or a group.
#[derive(Debug)]
pub(super) struct ReadyWaker {
    queue: Arc<ReadyQueue>,
    target: Target,
    /// It is to be visited already.
    is_marked: AtomicBool,
    /// The last visit was expensive. The shard alone uses it. It is here because it takes no memory
    /// beside the other flag.
    is_heavy: AtomicBool,
}

impl ReadyQueue {
    /// Sets the task that is woken when something is pushed.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub(super) fn push_session(&self, session: Box<Session>, token: TaskTrackerToken) {
        self.push(|ready| ready.new.push((session, token)));
    }

    fn push(&self, change: impl FnOnce(&mut Ready)) {
        let mut ready = self.lock();
        let was_empty = ready.woken.is_empty() && ready.new.is_empty();
        change(&mut ready);
        drop(ready);
        // The first push has woken the task for all others.
        if was_empty {
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
            is_marked: AtomicBool::new(false),
            is_heavy: AtomicBool::new(false),
        })
    }

    /// Marks its target as to be visited. Returns whether it was not marked before: then the caller
    /// has to queue it.
    #[inline]
    pub(super) fn mark(&self) -> bool {
        !self.is_marked.swap(true, AcqRel)
    }

    /// The visit begins. Whatever comes from now on needs another one.
    #[inline]
    pub(super) fn clear(&self) {
        self.is_marked.swap(false, AcqRel);
    }

    /// Remembers whether the last visit was expensive.
    #[inline]
    pub(super) fn set_heavy(&self, is_heavy: bool) {
        self.is_heavy.store(is_heavy, Relaxed);
    }

    /// Whether the last visit was expensive.
    #[inline]
    pub(super) fn is_heavy(&self) -> bool {
        self.is_heavy.load(Relaxed)
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
