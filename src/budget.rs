//! The memory budget of a node: the bytes that messages take, part by part, and whether there is
//! room for more. Each holder of message bytes counts them here for as long as it holds them. The hub
//! makes room.

mod container;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use tokio::sync::Notify;

use crate::metrics::{Gauge, Metrics};

/// Holders of message bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Batches in feeds with all their encodings, and trimmed batches that a reader still writes.
    Feeds,
    /// Messages that the broker has not acknowledged.
    Inbox,
    /// Input of clients: unfinished messages, bytes that are not decoded yet, and what is kept of
    /// earlier messages for clients that compress with reference to them.
    Input,
    /// Keys of messages, where the node itself keeps them.
    Keys,
    /// Batches read from a history for clients that resume, and batches that wait until their
    /// channel has caught up.
    Pages,
    /// Answers to requests that are being written.
    Answers,
}

impl Part {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 6] = [
        Self::Feeds,
        Self::Inbox,
        Self::Input,
        Self::Keys,
        Self::Pages,
        Self::Answers,
    ];

    /// The value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Feeds => "feeds",
            Self::Inbox => "inbox",
            Self::Input => "input",
            Self::Keys => "keys",
            Self::Pages => "pages",
            Self::Answers => "answers",
        }
    }
}

/// `--memory` where nothing else limits the process, in bytes.
pub(crate) const DEFAULT_LIMIT: usize = 512 * 1024 * 1024;

/// The least `--memory`, in bytes: below it a few busy channels would have almost no window.
pub(crate) const LEAST_LIMIT: usize = 16 * 1024 * 1024;

/// The default of `--memory`, in bytes: a third of the container's limit, if that is lower, because
/// connections, kernel buffers and what the allocator keeps need as much again.
pub(crate) fn default_limit() -> usize {
    container::memory_limit().map_or(DEFAULT_LIMIT, |limit| {
        (limit / 3).clamp(LEAST_LIMIT, DEFAULT_LIMIT)
    })
}

/// Counts the bytes that messages take in a node.
#[derive(Debug)]
pub(crate) struct Budget {
    /// `--memory`, in bytes.
    limit: usize,
    used: AtomicUsize,
    parts: [Gauge; Part::ALL.len()],
    /// A session waits for room.
    awaited: AtomicBool,
    /// Notified when a session begins to wait for room, and when there is room again.
    changed: Notify,
}

impl Budget {
    /// An empty budget of `limit` bytes.
    pub(crate) fn new(limit: usize, metrics: &Metrics) -> Arc<Self> {
        metrics
            .memory_limit
            .set(limit.try_into().unwrap_or(i64::MAX));
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            parts: Part::ALL.map(|part| metrics.memory.with_label_values(&[part.label()])),
            awaited: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// `--memory`, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are counted now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether sockets are read and requests served. Without room, only holders of memory continue.
    pub(crate) fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Whether feeds have to give memory back: from five eighths of the limit. The allocator keeps
    /// up to six tenths of the batches' bytes beside them, when they come and go in all sizes
    /// (measured: 178 MiB for 112, of which the process had 15 before).
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.limit / 8 * 5
    }

    /// Bytes that feeds have to give back, so that half of the limit is free.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit / 2)
    }

    /// Bytes of one part.
    pub(crate) fn part(&self, part: Part) -> usize {
        self.parts[part as usize].get().try_into().unwrap_or(0)
    }

    /// Whether a part has its share of the limit, a quarter. For parts that clients can fill and for
    /// which feeds cannot make room.
    pub(crate) fn is_crowded(&self, part: Part) -> bool {
        self.part(part) >= self.limit / 4
    }

    /// Counts bytes until [`Self::give_back`].
    pub(crate) fn take(&self, part: Part, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
        self.parts[part as usize].add(bytes as i64);
    }

    /// Ends the counting of bytes.
    pub(crate) fn give_back(&self, part: Part, bytes: usize) {
        self.used.fetch_sub(bytes, SeqCst);
        self.parts[part as usize].sub(bytes as i64);
        // Load before swap, because a swap at every call would be felt.
        if self.awaited.load(SeqCst) && self.has_room() && self.awaited.swap(false, SeqCst) {
            self.changed.notify_one();
        }
    }

    /// Bytes that are counted until the charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, part: Part, bytes: usize) -> Charge {
        self.take(part, bytes);
        Charge {
            budget: self.clone(),
            part,
            bytes: AtomicUsize::new(bytes),
        }
    }

    /// A session found no room: [`Self::changed`] returns now, so that room can be made, and again
    /// once there is some.
    pub(crate) fn await_room(&self) {
        self.awaited.store(true, SeqCst);
        self.changed.notify_one();
    }

    /// Whether there is room now; if not, [`Self::changed`] returns once there is.
    pub(crate) fn has_room_now(&self) -> bool {
        if self.has_room() {
            return true;
        }
        // The second look sees room that was given back before the flag was up.
        self.awaited.store(true, SeqCst);
        self.used.load(SeqCst) < self.limit
    }

    /// Waits until a session waits for room, or there is room again. Only one task may wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Bytes that are counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    part: Part,
    bytes: AtomicUsize,
}

impl Charge {
    /// Counts more bytes.
    pub(crate) fn grow(&self, bytes: usize) {
        self.budget.take(self.part, bytes);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Whether its budget has room.
    pub(crate) fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    /// Counts this many bytes from now on.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(self.bytes.get_mut(), bytes);
        if bytes > before {
            self.budget.take(self.part, bytes - before);
        } else {
            self.budget.give_back(self.part, before - bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.part, *self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: usize) -> (Arc<Budget>, Metrics) {
        let metrics = Metrics::new(&[], &[], &[]).expect("metrics");
        (Budget::new(limit, &metrics), metrics)
    }

    #[test]
    fn charges_count_until_they_are_dropped() {
        let (budget, metrics) = budget(800);
        let mut charge = budget.charge(Part::Inbox, 300);
        charge.grow(250);
        assert!(budget.is_short() && budget.has_room());
        assert_eq!((budget.used(), budget.excess()), (550, 150));
        let other = budget.charge(Part::Keys, 250);
        assert!(!budget.has_room());
        charge.set(200);
        assert!(
            !budget.is_short() && budget.is_crowded(Part::Inbox) && budget.is_crowded(Part::Keys)
        );
        drop((charge, other));
        assert_eq!(budget.used(), 0);
        assert_eq!(metrics.memory.with_label_values(&["inbox"]).get(), 0);
    }

    #[tokio::test]
    async fn a_session_that_found_no_room_is_woken_once_there_is_some() {
        let (budget, _metrics) = budget(100);
        let charge = budget.charge(Part::Feeds, 100);
        budget.await_room();
        let waiting = budget.clone();
        budget.changed().await;
        let waiter = tokio::spawn(async move { waiting.changed().await });
        drop(charge);
        waiter.await.expect("no panic");
    }
}
