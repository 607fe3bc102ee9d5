//! What others tell a shard: who is to be visited, and who has come.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ws::session::Session;

#[derive(Debug, Default)]
pub(super) struct Queue {
    told: Mutex<Told>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) woken: Vec<Due>,
    pub(super) newcomers: Vec<(Box<Session>, TaskTrackerToken)>,
}

/// Who is to be visited. It may have left meanwhile, and its key be another's: one visit too many
/// does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Session(usize),
    /// All who rest in an audience.
    Audience(usize),
}

/// Visits to an audience.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) audience: usize,
    /// How many of those who rest are still to be visited.
    pub(super) left: usize,
    pub(super) began: Instant,
}

/// Wakes a session or an audience.
#[derive(Debug)]
pub(super) struct Bell {
    queue: Arc<Queue>,
    due: Due,
    /// It is to be visited already.
    rung: AtomicBool,
    /// The last visit was expensive. Read and written by the shard alone; here it takes no memory
    /// of its own.
    heavy: AtomicBool,
}

impl Queue {
    /// The task that is woken when there is something.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub(super) fn tell(&self, what: impl FnOnce(&mut Told)) {
        let mut told = self.lock();
        let first = told.woken.is_empty() && told.newcomers.is_empty();
        what(&mut told);
        drop(told);
        if first {
            self.task.wake();
        }
    }

    pub(super) fn take(&self) -> Told {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    pub(super) fn new(queue: &Arc<Queue>, due: Due) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.clone(),
            due,
            rung: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
        })
    }

    /// Marks as to be visited without telling the queue; returns whether it was not.
    pub(super) fn ring_silently(&self) -> bool {
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
    pub(super) fn hush(&self) {
        self.rung.swap(false, AcqRel);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.ring_silently() {
            self.queue.tell(|told| told.woken.push(self.due));
        }
    }
}
