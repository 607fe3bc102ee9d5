//! The beginning of a session: what a client is sent before it follows the live feed, and then its way to a shard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::close::CloseReason;
use super::gate::Permit;
use super::session::{Session, Shared, Wishes, way};
use super::shard::Shards;
use super::socket::Socket;
use crate::config::SlowClient;
use crate::feed::Cursor;
use crate::http::stream::{LEAST_RATE, reset};
use crate::hub::{Membership, Subscription};
use crate::message::Format;
use crate::metrics::Transport;
use crate::shutdown::Shutdown;

/// How long a client may take nothing of what it is sent.
const STALL_PATIENCE: Duration = Duration::from_secs(20);

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
    pub wishes: Wishes,
    /// Its place among the connections.
    pub permit: Permit,
    /// Bytes that it is sent first.
    pub greeting: Vec<u8>,
}

impl Opening {
    /// Sends the greeting and what is older than the live feed; then its shard has the session. `early` are the bytes that
    /// came behind the request.
    pub async fn begin(self, mut stream: TcpStream, early: Bytes) {
        let Self { shared, shards, shutdown, subscription, wishes, permit, greeting } = self;
        let opened = tokio::select! {
            opened = open(&mut stream, &shared, &greeting, subscription, wishes.format) => opened,
            // A client that is still being sent what it missed goes on with that elsewhere.
            () = shutdown.listeners.cancelled() => Err(CloseReason::Drain),
        };
        let transport = shared.metrics.of(way(wishes.format));
        match opened {
            Ok(place) => match Socket::new(stream) {
                Ok(socket) => {
                    let session = Session::new(socket, early, shared, place, wishes, permit);
                    shards.take_in(session, shutdown.sessions.token());
                }
                Err(error) => {
                    tracing::error!("cannot take over a socket: {error}");
                    transport.closed(CloseReason::Internal.label());
                }
            },
            Err(reason) => {
                if reason == CloseReason::Slow {
                    shared.metrics.slow_clients.with_label_values(&[SlowClient::Disconnect.label()]).inc();
                    // Closed in order, the kernel would keep for minutes what it has not taken.
                    reset(&stream);
                }
                transport.closed(reason.label());
            }
        }
    }
}

async fn open(
    stream: &mut TcpStream,
    shared: &Arc<Shared>,
    greeting: &[u8],
    mut subscription: Subscription,
    format: Format,
) -> Result<(Membership, Cursor), CloseReason> {
    let transport = shared.metrics.of(way(format));
    send(stream, transport, greeting).await?;
    // Without its history a client has to come back: it is told nothing false, and what it knows still holds.
    while let Some(older) = subscription.older().await.map_err(|_| CloseReason::Disconnected)? {
        let (pieces, messages) = older.pieces(format);
        shared.hub.make_room();
        for piece in pieces {
            send(stream, transport, &piece).await?;
        }
        transport.delivered.inc_by(messages as u64);
    }
    Ok(subscription.into_live())
}

async fn send(stream: &mut TcpStream, transport: &Transport, mut bytes: &[u8]) -> Result<(), CloseReason> {
    let end = Instant::now() + STALL_PATIENCE + Duration::from_secs(bytes.len() as u64 / LEAST_RATE);
    while !bytes.is_empty() {
        let patience = end.min(Instant::now() + STALL_PATIENCE);
        let written = timeout_at(patience, stream.write(bytes)).await.map_err(|_| CloseReason::Slow)?;
        let written = written.ok().filter(|written| *written > 0).ok_or(CloseReason::Disconnected)?;
        transport.sent_bytes.inc_by(written as u64);
        bytes = &bytes[written..];
    }
    Ok(())
}
