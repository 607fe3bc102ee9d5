//! The beginning of a session: what a client is sent before it follows the live feed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::close::CloseReason;
use super::session::Shared;
use super::v1;
use crate::feed::Cursor;
use crate::hub::{Membership, Subscription};
use crate::message::{Format, Shape, put_text};

/// How long a client may take nothing of what it is sent.
const STALL_PATIENCE: Duration = Duration::from_secs(20);

/// Sends it.
pub(super) async fn open(
    stream: &mut TcpStream,
    shared: &Arc<Shared>,
    mut subscription: Subscription,
    format: Format,
) -> Result<(Membership, Cursor), CloseReason> {
    if format.shape == Shape::V1 {
        let mut frame = Vec::new();
        put_text(v1::welcome(&subscription, shared.node).as_bytes(), &mut frame);
        send(stream, shared, &frame).await?;
    }
    // Without its history a client has to come back: it is told nothing false, and what it knows still holds.
    while let Some(older) = subscription.older().await.map_err(|_| CloseReason::Disconnected)? {
        let (pieces, messages) = older.pieces(format);
        for piece in pieces {
            send(stream, shared, &piece).await?;
        }
        shared.metrics.websocket.delivered.inc_by(messages as u64);
    }
    Ok(subscription.into_live())
}

async fn send(stream: &mut TcpStream, shared: &Shared, mut bytes: &[u8]) -> Result<(), CloseReason> {
    while !bytes.is_empty() {
        let written = timeout(STALL_PATIENCE, stream.write(bytes)).await.map_err(|_| CloseReason::Slow)?;
        let written = written.ok().filter(|written| *written > 0).ok_or(CloseReason::Disconnected)?;
        shared.metrics.websocket.sent_bytes.inc_by(written as u64);
        bytes = &bytes[written..];
    }
    Ok(())
}
