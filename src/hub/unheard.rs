//! What was said on a channel here, the broker holds, and has not brought back yet: if the broker
//! loses it, perhaps nobody but this node knows.

use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use crate::message::MessageId;

/// Remembers the newest such message.
#[derive(Debug, Default)]
pub struct Unheard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    newest: Option<Held>,
    /// Number of the newest message that has come back.
    came_back: u64,
}

/// A message that the broker holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its number among those of its channel's publisher.
    pub number: u64,
    /// What it is called.
    pub id: MessageId,
    /// When the broker said so.
    pub since: Instant,
}

impl Unheard {
    /// The broker holds this message, and will bring it back, if it has not yet.
    pub fn held(&self, number: u64, id: MessageId) {
        let mut state = lock(&self.0);
        if number > state.came_back {
            state.newest = Some(Held {
                number,
                id,
                since: Instant::now(),
            });
        }
    }

    /// This message has come back, and so have all before it that ever will.
    pub fn came_back(&self, number: u64) {
        let mut state = lock(&self.0);
        state.came_back = state.came_back.max(number);
        state.newest.take_if(|held| held.number <= number);
    }

    /// The newest one, if there is any.
    pub fn newest(&self) -> Option<Held> {
        lock(&self.0).newest
    }
}
