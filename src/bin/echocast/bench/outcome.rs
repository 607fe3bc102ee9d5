//! The result of a load as it was measured. `report` derives from it what people want to know.

use std::time::Duration;

use super::connection::Connection;
use super::monitor::Snapshot;
use super::tally::Tally;

pub(super) struct Outcome {
    pub(super) connected_in: Duration,
    pub(super) memory: ServerMemory,
    /// When measuring began.
    pub(super) first: Snapshot,
    /// When measuring ended.
    pub(super) last: Snapshot,
    pub(super) tally: Tally,
    /// One for each connection that subscribed.
    pub(super) received: Vec<Received>,
    /// Why connections ended that should have stayed open.
    pub(super) ended: Vec<String>,
}

/// All zero if the server's processes are not measured.
pub(super) struct ServerMemory {
    /// Memory of idle connections, before the first message, in bytes.
    pub(super) of_connections: u64,
    /// The most while measuring, in bytes.
    pub(super) max: u64,
}

/// The messages that one connection received.
pub(super) struct Received {
    /// Each counted once.
    pub(super) messages: u64,
    /// A hash of their sequence.
    pub(super) order: u64,
}

impl Received {
    pub(super) fn by(connection: &Connection) -> Self {
        Self {
            messages: connection.sequence.received(),
            order: connection.sequence.order(),
        }
    }
}
