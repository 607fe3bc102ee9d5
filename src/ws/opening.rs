//! The beginning of a session: from the answer to its request to its shard.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::session::{Session, SessionOptions, Shared, transport};
use super::shard::Shards;
use super::socket::Socket;
use crate::client::close_reason::CloseReason;
use crate::client::connection_limits::Permit;
use crate::hub::Subscription;
use crate::shutdown::Shutdown;

/// A session that begins once its request is answered.
#[derive(Debug)]
pub struct Opening {
    /// The parts of a node that all sessions use.
    pub shared: Arc<Shared>,
    /// The tasks that poll the sessions.
    pub shards: Arc<Shards>,
    /// Counts the sessions, so that a drain waits for them.
    pub shutdown: Shutdown,
    /// The client's place in its channel.
    pub subscription: Subscription,
    /// The options that the client asked for.
    pub options: SessionOptions,
    /// Its share of the connection limits.
    pub permit: Permit,
    /// Bytes that are written first.
    pub greeting: Vec<u8>,
}

impl Opening {
    /// Gives the session to a shard. `early` are the bytes that followed the request.
    pub fn begin(self, stream: TcpStream, early: Bytes) {
        // A drain waits until the token is dropped.
        let (shards, token) = (self.shards.clone(), self.shutdown.sessions.token());
        match Socket::new(stream) {
            Ok(socket) => shards.add(Session::new(socket, early, self), token),
            Err(error) => {
                tracing::error!("cannot take over a socket: {error}");
                let metrics = self.shared.metrics.of(transport(self.options.format));
                metrics.closed(CloseReason::Internal.label());
            }
        }
    }
}
