//! The keys of a channel's messages on a node without Redis: which are kept, and the message that
//! each belongs to.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::budget::{Budget, Charge, Part};
use crate::message::{Digest, MessageId};

/// Bytes that a key takes beside its text, which the map and the queue share: their entries, with
/// the room that both keep free.
const KEY_COST: usize = 192;

/// The keys of a channel's messages, as long as the messages are kept.
#[derive(Debug)]
pub(crate) struct Keys {
    by_key: HashMap<Arc<str>, Keyed>,
    oldest_first: VecDeque<(u64, Arc<str>)>,
    /// Bytes that all of it takes.
    bytes: usize,
    /// Counts these bytes in the memory budget.
    charge: Charge,
}

/// The message that has a key.
#[derive(Clone, Copy, Debug)]
struct Keyed {
    id: MessageId,
    digest: Digest,
}

/// The key belongs to another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyTaken;

impl Keys {
    /// No keys.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            by_key: HashMap::new(),
            oldest_first: VecDeque::new(),
            bytes: 0,
            charge: budget.charge(Part::Keys, 0),
        }
    }

    /// The message that was published under this key before, if the history still has it.
    /// `oldest` is the offset of the oldest message kept.
    ///
    /// # Errors
    /// If that is another message.
    pub(crate) fn find(
        &self,
        key: &str,
        digest: Digest,
        oldest: u64,
    ) -> Result<Option<MessageId>, KeyTaken> {
        match self.by_key.get(key) {
            Some(keyed) if keyed.id.offset < oldest => Ok(None),
            Some(keyed) if keyed.digest != digest => Err(KeyTaken),
            keyed => Ok(keyed.map(|keyed| keyed.id)),
        }
    }

    /// Remembers a key, and forgets the keys of messages before offset `oldest`.
    pub(crate) fn remember(&mut self, key: &str, digest: Digest, id: MessageId, oldest: u64) {
        let key: Arc<str> = key.into();
        self.bytes += cost(&key);
        self.oldest_first.push_back((id.offset, key.clone()));
        self.by_key.insert(key, Keyed { id, digest });
        self.forget_before(oldest);
    }

    /// Forgets the keys of messages before offset `oldest`.
    pub(crate) fn forget_before(&mut self, oldest: u64) {
        let is_old = |entry: &mut (u64, Arc<str>)| entry.0 < oldest;
        while let Some((offset, key)) = self.oldest_first.pop_front_if(is_old) {
            self.bytes -= cost(&key);
            // A newer message may have the key by now: that entry stays.
            let keyed = self.by_key.get(&key);
            if keyed.is_some_and(|keyed| keyed.id.offset == offset) {
                self.by_key.remove(&key);
            }
        }
        if self.oldest_first.is_empty() {
            // Both would keep the room of their largest size.
            self.by_key = HashMap::new();
            self.oldest_first = VecDeque::new();
        }
        self.charge.set(self.bytes);
    }
}

fn cost(key: &str) -> usize {
    key.len() + KEY_COST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn id(offset: u64) -> MessageId {
        MessageId { epoch: 1, offset }
    }

    #[test]
    fn a_key_belongs_to_its_message_as_long_as_that_is_kept() {
        let budget = Budget::new(1 << 20, &Metrics::new(&[], &[], &[]).expect("metrics"));
        let mut keys = Keys::new(&budget);
        keys.remember("k", [1; 20], id(1), 1);
        assert_eq!(budget.used(), cost("k"));
        assert_eq!(keys.find("k", [1; 20], 1), Ok(Some(id(1))));
        assert_eq!(keys.find("k", [2; 20], 1), Err(KeyTaken));
        assert_eq!(
            keys.find("k", [2; 20], 2),
            Ok(None),
            "its message has left the history"
        );
        // Published again while the old one is still remembered: forgetting that one leaves the new
        // one alone.
        keys.remember("k", [2; 20], id(2), 1);
        keys.remember("l", [3; 20], id(3), 2);
        assert_eq!(budget.used(), 2 * cost("k"), "one came and one went");
        assert_eq!(keys.find("k", [2; 20], 2), Ok(Some(id(2))));
        keys.remember("m", [3; 20], id(9), 9);
        assert_eq!(
            (keys.by_key.len(), keys.oldest_first.len(), budget.used()),
            (1, 1, cost("m"))
        );
        keys.forget_before(10);
        assert_eq!(budget.used(), 0);
    }
}
