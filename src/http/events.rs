//! Server-sent events: a request that becomes a session. It is answered here, and then reads the
//! same feed as WebSockets do, under the same rules.

use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::context::Context;
use super::cors::CorsRequest;
use super::handover::Handover;
use crate::channel::ChannelName;
use crate::client::caller::Caller;
use crate::client::query;
use crate::client::rejection::Rejection;
use crate::feed::Start;
use crate::message::Format;
use crate::metrics::Transport;
use crate::ws::session::SessionOptions;

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
    let ip = caller.ip;
    let options =
        query::subscribe_options(request.uri().query().unwrap_or_default(), request.headers())?;
    let subscription = context
        .shared
        .hub
        .join_as_subscriber(name)?
        .subscribe(options.start)
        .await?;
    // Not before: a connection whose request is refused stays what it is, and counts.
    let permit = caller.into_permit(Transport::Events)?;
    tracing::debug!(channel = name.as_str(), %ip, "event stream");

    let mut response = head();
    CorsRequest::of(request.headers()).answer(&context.origins, &mut response);
    let mut greeting = written(&response);
    greeting.extend_from_slice(b":ok\n\n");
    if let Some(id) = subscription
        .newest
        .filter(|_| options.start == Start::Newest)
    {
        // Nothing to dispatch, but a client that receives nothing until it comes back goes on from
        // here.
        greeting.extend(format!("id: {id}\n\n").bytes());
    }
    let options = SessionOptions {
        format: Format::EVENTS,
        echo: true,
        client_history: None,
    };
    let opening = context.opening(subscription, options, permit, greeting);
    let run = |stream, early| {
        opening.shared.metrics.events.opened.inc();
        opening.begin(stream, early);
    };
    match handover
        .take(move |stream, early| Box::pin(async move { run(stream, early) }))
        .await {}
}

/// The answer to a HEAD: that to the same GET, without its events.
pub(super) fn answer_head(request: &Request) -> Result<Response, Rejection> {
    query::subscribe_options(request.uri().query().unwrap_or_default(), request.headers())?;
    Ok(head())
}

/// The answer without its events.
fn head() -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    // Proxies that compress would hold events back until they have enough of them: `no-transform`
    // forbids it. nginx buffers answers unless this header of its own forbids that.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
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
