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

/// A session that begins.
#[derive(Debug)]
pub struct Opening {
    /// The parts of a node that all sessions use.
    pub shared: Arc<Shared>,
    /// The tasks that poll the sessions.
    pub shards: Arc<Shards>,
    /// Whether anybody is served any more.
    pub shutdown: Shutdown,
    /// The client's place in its channel.
    pub subscription: Subscription,
    /// The options that the client asked for.
    pub options: SessionOptions,
    /// Its place among the connections.
    pub permit: Permit,
    /// Bytes that it is sent first.
    pub greeting: Vec<u8>,
}

impl Opening {
    /// Gives the session to a shard. `early` are the bytes that came behind the request.
    pub fn begin(self, stream: TcpStream, early: Bytes) {
        let Self {
            shared,
            shards,
            shutdown,
            subscription,
            options,
            permit,
            greeting,
        } = self;
        match Socket::new(stream) {
            Ok(socket) => {
                let session = Session::new(
                    socket,
                    early,
                    shared,
                    subscription,
                    options,
                    permit,
                    &greeting,
                );
                shards.add(session, shutdown.sessions.token());
            }
            Err(error) => {
                tracing::error!("cannot take over a socket: {error}");
                shared
                    .metrics
                    .of(transport(options.format))
                    .closed(CloseReason::Internal.label());
            }
        }
    }
}
