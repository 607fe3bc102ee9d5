//! The beginning of a session: from the answer to its request to its shard.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::session::{NewSession, Session, transport};
use super::shard::Shards;
use super::socket::Socket;
use crate::client::close_reason::CloseReason;
use crate::shutdown::Shutdown;

/// A session that begins once its request is answered.
#[derive(Debug)]
pub(crate) struct Opening {
    /// All of it but its socket.
    pub(crate) session: NewSession,
    /// The tasks that poll the sessions.
    pub(crate) shards: Arc<Shards>,
    /// Counts the sessions, so that a drain waits for them.
    pub(crate) shutdown: Shutdown,
}

impl Opening {
    /// Gives the session to a shard. `early` are the bytes that followed the request.
    pub(crate) fn begin(self, stream: TcpStream, early: Bytes) {
        let Self {
            session,
            shards,
            shutdown,
        } = self;
        match Socket::new(stream) {
            Ok(socket) => {
                let session = Session::new(socket, early, session);
                shards.add(session, shutdown.sessions.token());
            }
            Err(error) => {
                tracing::error!("cannot take over a socket: {error}");
                let transport = transport(session.options.format);
                let metrics = session.shared.metrics.of(transport);
                metrics.closed(CloseReason::Internal.label());
            }
        }
    }
}
