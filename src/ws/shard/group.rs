//! An group: a shard's sessions on one channel. It knows which of them rest, and in what order
//! they are visited.

use std::sync::Arc;

use super::HEAVY;
use super::ready_queue::ReadyWaker;
use crate::feed::Group;

pub(super) struct ShardGroup {
    pub(super) feed: Group,
    pub(super) ready: Arc<ReadyWaker>,
    /// How many sessions there are.
    pub(super) sessions: usize,
    /// Keys of those for whom the group takes; visited from the end.
    resting: Vec<usize>,
    /// How many at the end of these have published since they were last visited.
    speakers: usize,
    /// Bytes that its sessions have inflated, parsed or encoded since its last round began.
    work: usize,
    /// Its last round was expensive.
    heavy: bool,
}

/// A session has another place now.
pub(super) struct Moved {
    pub(super) session: usize,
    pub(super) place: usize,
}

impl ShardGroup {
    pub(super) fn new(feed: Group, ready: Arc<ReadyWaker>) -> Self {
        Self {
            feed,
            ready,
            sessions: 0,
            resting: Vec::new(),
            speakers: 0,
            work: 0,
            heavy: false,
        }
    }

    /// A session begins to rest; returns its place.
    pub(super) fn rest(&mut self, session: usize) -> usize {
        self.resting.push(session);
        self.resting.len() - 1
    }

    /// The session at a place rests no longer: another may take its place. In a round that is one
    /// that was visited.
    pub(super) fn rise(&mut self, place: usize) -> Option<Moved> {
        self.resting.swap_remove(place);
        self.resting.get(place).map(|session| Moved {
            session: *session,
            place,
        })
    }

    /// The session at a place has published: it is visited early, for perhaps it waits for that to say
    /// more. Returns its new place, and who is at its old one.
    pub(super) fn prefer(&mut self, place: usize) -> Option<(usize, Moved)> {
        let there = self
            .resting
            .len()
            .checked_sub(self.speakers + 1)
            .filter(|there| place <= *there)?;
        self.speakers += 1;
        self.resting.swap(place, there);
        Some((
            there,
            Moved {
                session: self.resting[place],
                place,
            },
        ))
    }

    /// Begins a round of visits; returns how many.
    pub(super) fn begin(&mut self) -> usize {
        self.ready.clear();
        self.speakers = 0;
        self.heavy = std::mem::take(&mut self.work) >= HEAVY;
        self.feed.begin();
        self.resting.len()
    }

    /// A visit to one of its sessions took so much work.
    pub(super) fn worked(&mut self, bytes: usize) {
        self.work += bytes;
    }

    /// Whether its rounds wait for all others.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy || self.work >= HEAVY
    }

    /// The next of so many that are left, and how many are left then.
    pub(super) fn next(&self, left: usize) -> Option<(usize, usize)> {
        let next = left.min(self.resting.len()).checked_sub(1)?;
        Some((self.resting[next], next))
    }
}
