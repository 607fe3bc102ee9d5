//! Batches that wait for a pipeline. Channels take turns, a batch each, so that one with much to
//! publish delays another by its share of a pipeline; within a channel they keep their order.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::channel::ChannelName;
use crate::hub::PendingBatch;

/// Batches that were taken from the inbox and are in no pipeline.
#[derive(Default)]
pub(in super::super) struct Queue {
    /// None of them is empty.
    by_channel: HashMap<ChannelName, VecDeque<PendingBatch>>,
    /// Each of those channels once, here or in `quick`; the next one first.
    turns: VecDeque<ChannelName>,
    /// Channels of which nothing but one small batch waits: they come before all others, whose
    /// batches take Redis long.
    quick: VecDeque<ChannelName>,
    /// Batches taken from there since one of the others was.
    quick_run: usize,
}

/// A small batch, in bytes: Redis has taken it before anybody could notice.
const QUICK_BYTES: usize = 16 * 1024;

/// Small batches in a row, so that those of all others are never kept waiting for good: as many
/// bytes as a large one.
const QUICK_RUN: usize = 16;

impl Queue {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.by_channel.is_empty()
    }

    /// Adds a batch behind those of its channel; a channel that had none is the last of its kind.
    pub(in super::super) fn push(&mut self, pending: PendingBatch) {
        match self.by_channel.entry(pending.channel.name.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().push_back(pending),
            Entry::Vacant(entry) => {
                let turns = if pending.bytes <= QUICK_BYTES {
                    &mut self.quick
                } else {
                    &mut self.turns
                };
                turns.push_back(entry.key().clone());
                entry.insert(VecDeque::from([pending]));
            }
        }
    }

    /// Takes the next batch of the channel whose turn it is; those named in `waiting` are left out,
    /// and keep their turns.
    pub(super) fn next(&mut self, waiting: &HashSet<ChannelName>) -> Option<PendingBatch> {
        let take = |turns: &mut VecDeque<ChannelName>| {
            let place = turns.iter().position(|name| !waiting.contains(name))?;
            turns.remove(place)
        };
        let quick = if self.quick_run < QUICK_RUN {
            take(&mut self.quick)
        } else {
            None
        };
        self.quick_run = if quick.is_some() {
            self.quick_run + 1
        } else {
            0
        };
        let name = quick
            .or_else(|| take(&mut self.turns))
            .or_else(|| take(&mut self.quick))?;
        let batches = self.by_channel.get_mut(&name)?;
        let next = batches.pop_front();
        if batches.is_empty() {
            self.by_channel.remove(&name);
        } else {
            self.turns.push_back(name);
        }
        next
    }

    /// Takes everything; within each channel in order.
    pub(in super::super) fn take(&mut self) -> impl Iterator<Item = PendingBatch> + use<> {
        let Self {
            mut by_channel,
            turns,
            quick,
            ..
        } = std::mem::take(self);
        quick
            .into_iter()
            .chain(turns)
            .filter_map(move |name| by_channel.remove(&name))
            .flatten()
    }
}

impl Extend<PendingBatch> for Queue {
    fn extend<T: IntoIterator<Item = PendingBatch>>(&mut self, batches: T) {
        batches.into_iter().for_each(|pending| self.push(pending));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::budget::Budget;
    use crate::feed::Retention;
    use crate::hub::Hub;
    use crate::message::Kind;
    use crate::metrics::Metrics;

    #[test]
    fn channels_take_turns_and_keep_their_order() {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let ttl = Duration::from_secs(1);
        let retention = Retention {
            messages: 1,
            history_bytes: 1,
            bytes: 1,
            ttl,
        };
        let budget = Budget::new(1 << 30, &metrics);
        let hub = Arc::new(Hub::new(retention, false, None, budget, metrics).0);
        for (name, batches) in [("busy", 5), ("a", 1), ("b", 2)] {
            let visit = hub
                .join_as_publisher(&ChannelName::new(name).expect("a name"))
                .expect("room");
            let mut publication = visit.channel().publish(hub.inbox());
            for number in 0..batches {
                publication.push_with(Kind::Text, b"x", 0, Some(number.to_string()), None);
            }
        }
        let mut queue = Queue::default();
        queue.extend(hub.inbox().try_take());
        let mut order = |waiting: &[&str]| {
            let waiting = waiting
                .iter()
                .map(|name| ChannelName::new(name).expect("a name"))
                .collect();
            let next = queue.next(&waiting)?;
            Some(format!("{} {}", next.channel.name, next.first.0))
        };
        assert_eq!(
            order(&["busy", "a"]).as_deref(),
            Some("b 1"),
            "who waits is left out"
        );
        assert_eq!(order(&["busy", "a", "b"]), None);
        let rest: Vec<String> = std::iter::from_fn(|| order(&[])).collect();
        assert_eq!(
            rest,
            [
                "busy 1", "a 1", "b 2", "busy 2", "busy 3", "busy 4", "busy 5"
            ]
        );
        assert!(queue.is_empty() && queue.take().next().is_none());
    }

    #[test]
    fn one_small_batch_comes_before_large_ones() {
        let metrics = Arc::new(Metrics::new(&[], &[], &[]).expect("metrics"));
        let retention = Retention {
            messages: 1,
            history_bytes: 1,
            bytes: 1,
            ttl: Duration::from_secs(1),
        };
        let budget = Budget::new(1 << 30, &metrics);
        let hub = Arc::new(Hub::new(retention, false, None, budget, metrics).0);
        let mut queue = Queue::default();
        for (name, bytes) in [("large", 100_000), ("larger", 200_000), ("small", 10)] {
            let visit = hub
                .join_as_publisher(&ChannelName::new(name).expect("a name"))
                .expect("room");
            visit
                .channel()
                .publish(hub.inbox())
                .push(Kind::Binary, &vec![7; bytes], 0);
            queue.extend(hub.inbox().try_take());
        }
        let order = std::iter::from_fn(|| queue.next(&HashSet::new()))
            .map(|it| it.channel.name.to_string());
        assert_eq!(order.collect::<Vec<_>>(), ["small", "large", "larger"]);
        for name in std::iter::once("large".to_owned())
            .chain((0..40).map(|number| format!("small{number}")))
        {
            let visit = hub
                .join_as_publisher(&ChannelName::new(&name).expect("a name"))
                .expect("room");
            let bytes = if name == "large" { 100_000 } else { 10 };
            visit
                .channel()
                .publish(hub.inbox())
                .push(Kind::Binary, &vec![7; bytes], 0);
        }
        queue.extend(hub.inbox().try_take());
        let mut order = std::iter::from_fn(|| queue.next(&HashSet::new()))
            .map(|it| it.channel.name.to_string());
        assert_eq!(
            order.position(|name| name == "large"),
            Some(QUICK_RUN),
            "nor do small ones keep it waiting for good"
        );
    }
}
