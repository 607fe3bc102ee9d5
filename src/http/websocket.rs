//! WebSockets: a request that becomes a session once the answer to its handshake is written.

use axum::extract::Request;
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};

use super::context::Context;
use super::stream::Stream;
use crate::channel::ChannelName;
use crate::client::caller::Caller;
use crate::client::close_reason::CloseReason;
use crate::client::rejection::Rejection;
use crate::metrics::Transport;
use crate::ws::handshake::{self, Handshake};
use crate::ws::opening::Opening;

/// Answers a handshake. If it is sound, a session begins as soon as the answer is written.
pub(super) async fn websocket(
    context: &Context,
    name: &ChannelName,
    caller: Caller,
    mut request: Request,
) -> Result<Response, Rejection> {
    // Everything that needs no broker comes first.
    let accept = handshake::check(&request)?;
    context.admit(request.method(), request.headers())?;
    let handshake = Handshake::read(accept, &request, context.deflate)?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or(Rejection::Malformed("this connection cannot be upgraded"))?;

    // Before the answer, so that the client receives every message from its answer on.
    let shared = &context.shared;
    let start = handshake.options.start;
    let subscription = shared
        .hub
        .join_as_subscriber(name)?
        .subscribe(start)
        .await?;

    // Only now: the connection of a rejected request goes on as HTTP and counts as such.
    let ip = caller.ip;
    let permit = caller.into_permit(Transport::WebSocket)?;
    tracing::debug!(channel = name.as_str(), %ip, "connected");
    shared.metrics.websocket.opened.inc();

    let greeting = handshake.greeting(&subscription, shared.node);
    let opening = context.opening(subscription, handshake.session_options(), permit, greeting);
    let sessions = &context.shutdown.sessions;
    sessions.spawn(begin(upgrade, opening));
    Ok(handshake.into_response())
}

/// Begins the session once the answer is written.
async fn begin(upgrade: OnUpgrade, opening: Opening) {
    match upgrade.await.map(Upgraded::downcast::<Stream>) {
        Ok(Ok(parts)) => match parts.io.into_inner() {
            Some(stream) => opening.begin(stream, parts.read_buf),
            None => tracing::error!("an upgraded connection has no TCP stream"),
        },
        Ok(Err(_)) => tracing::error!("an upgraded connection is no TCP stream"),
        // The client left before the answer was written.
        Err(error) => {
            let metrics = &opening.shared.metrics;
            metrics.websocket.closed(CloseReason::Disconnected.label());
            tracing::debug!("no upgrade: {error}");
        }
    }
}
