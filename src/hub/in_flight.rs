//! Messages in flight: the broker has acknowledged them and has not delivered them back yet. If the
//! broker loses one, perhaps only this node knows.

use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use crate::message::{MessageId, Sequence};

/// Remembers the newest message in flight of one channel.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    newest: Option<Acknowledged>,
    /// The newest message that was received back.
    received: Sequence,
}

/// A message that the broker has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    /// Its number among those of its publisher.
    pub sequence: Sequence,
    /// Its id in the channel's history.
    pub id: MessageId,
    /// When the acknowledgement came.
    pub since: Instant,
}

impl InFlight {
    /// The broker has acknowledged this message. It may have delivered it back before.
    pub(crate) fn acknowledged(&self, sequence: Sequence, id: MessageId) {
        let mut state = lock(&self.0);
        if sequence > state.received {
            state.newest = Some(Acknowledged {
                sequence,
                id,
                since: Instant::now(),
            });
        }
    }

    /// This message was received back. The broker keeps the order of one publisher, so no earlier
    /// message is in flight any more.
    pub(crate) fn received(&self, sequence: Sequence) {
        let mut state = lock(&self.0);
        state.received = state.received.max(sequence);
        state.newest.take_if(|newest| newest.sequence <= sequence);
    }

    /// The newest message in flight.
    pub(crate) fn newest(&self) -> Option<Acknowledged> {
        lock(&self.0).newest
    }
}
