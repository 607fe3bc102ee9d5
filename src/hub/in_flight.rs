//! Messages in flight: Redis has acknowledged them, and this node has not received them back. If
//! Redis loses them now, perhaps no other node knows that they existed.

use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use crate::message::MessageId;

/// The newest message in flight of one channel.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    newest: Option<InFlightMessage>,
    /// Number of the newest message received back.
    received: u64,
}

/// A message that Redis has acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct InFlightMessage {
    /// Its number among those of its channel's publisher.
    pub number: u64,
    /// The id that Redis gave it.
    pub id: MessageId,
    /// When the acknowledgement arrived.
    pub since: Instant,
}

impl InFlight {
    /// Redis has acknowledged this message.
    pub fn acknowledged(&self, number: u64, id: MessageId) {
        let mut state = lock(&self.0);
        // Pub/sub may be faster than the acknowledgement: then nothing is in flight.
        if number > state.received {
            state.newest = Some(InFlightMessage {
                number,
                id,
                since: Instant::now(),
            });
        }
    }

    /// This node has received the message. All earlier ones have arrived, too, or never will.
    pub fn received(&self, number: u64) {
        let mut state = lock(&self.0);
        state.received = state.received.max(number);
        state.newest.take_if(|message| message.number <= number);
    }

    /// The newest message in flight, if there is one.
    pub fn newest(&self) -> Option<InFlightMessage> {
        lock(&self.0).newest
    }
}
