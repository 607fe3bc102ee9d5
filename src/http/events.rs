//! Server-sent events: a request that becomes a session. It is answered here, and then reads the
//! same feed as WebSockets do, under the same rules.

use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;

use super::context::Context;
use super::cors::CorsRequest;
use super::handover::Handover;
use crate::channel::ChannelName;
use crate::client::caller::Caller;
use crate::client::query;
use crate::client::rejection::Rejection;
use crate::feed::Start;
use crate::hub::Subscription;
use crate::message::Format;
use crate::metrics::Transport;
use crate::ws::session::SessionOptions;

/// Proxies that compress would hold events back until they have enough of them, which
/// `no-transform` forbids. nginx buffers answers unless a header of its own forbids that.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-cache, no-transform"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// Begins an event stream on the connection's socket. This future does not return a response: it is
/// dropped when the session has the socket.
pub(super) async fn events(
    context: &Context,
    name: &ChannelName,
    caller: Caller,
    mut request: Request,
) -> Result<Response, Rejection> {
    context.admit(request.method(), request.headers())?;
    let handover = request.extensions_mut().remove::<Handover>();
    let handover = handover.ok_or(Rejection::Malformed(
        "this connection cannot become an event stream",
    ))?;
    let query = request.uri().query().unwrap_or_default();
    let start = query::subscribe_options(query, request.headers())?.start;
    let hub = &context.shared.hub;
    let subscription = hub.join_as_subscriber(name)?.subscribe(start).await?;

    // Only now: the connection of a rejected request goes on as HTTP and counts as such.
    let ip = caller.ip;
    let permit = caller.into_permit(Transport::Events)?;
    tracing::debug!(channel = name.as_str(), %ip, "event stream");

    let mut response = head();
    CorsRequest::of(request.headers()).answer(&context.origins, &mut response);
    let greeting = greeting(&response, &subscription, start);
    let options = SessionOptions {
        format: Format::EVENTS,
        echo: true,
        client_history: None,
    };
    let opening = context.opening(subscription, options, permit, greeting);
    let run = |stream, early| {
        opening.session.shared.metrics.events.opened.inc();
        opening.begin(stream, early);
    };
    match handover
        .take(move |stream, early| Box::pin(async move { run(stream, early) }))
        .await {}
}

/// The bytes that a client receives first: the head of the answer, and where the stream begins.
fn greeting(response: &Response, subscription: &Subscription, start: Start) -> Vec<u8> {
    let mut greeting = written(response);
    // A comment, so that the client's stream is open before the first event.
    greeting.extend_from_slice(b":ok\n\n");
    let newest = subscription.newest.filter(|_| start == Start::Newest);
    if let Some(id) = newest {
        // An id without data dispatches no event. A client that receives nothing until it
        // reconnects resumes from here.
        greeting.extend(format!("id: {id}\n\n").bytes());
    }
    greeting
}

/// The answer to a HEAD: that to the same GET, without its events.
pub(super) fn answer_head(request: &Request) -> Result<Response, Rejection> {
    query::subscribe_options(request.uri().query().unwrap_or_default(), request.headers())?;
    Ok(head())
}

/// The answer without its events.
fn head() -> Response {
    let mut response = Response::new(Body::empty());
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// An empty stream that ends at once, for a rejection that may pass soon. `EventSource` never
/// reconnects after a status other than 200, but it does after the end of a stream.
pub(super) fn come_back(context: &Context, rejection: &Rejection) -> Response {
    let mut response = head();
    let retry_ms = context.shared.retry_ms();
    *response.body_mut() = Body::from(format!("retry: {retry_ms}\n: {rejection}\n\n"));
    response
}

/// The head of an answer whose body ends with its connection.
fn written(response: &Response) -> Vec<u8> {
    let mut head = String::from("HTTP/1.1 200 OK\r\nconnection: close\r\n");
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    write!(head, "date: {now}\r\n").expect("memory takes it");
    let mut head = head.into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
