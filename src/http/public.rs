//! The public port: one path is one channel, told apart by method and headers. What is answered is
//! others' business.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::accept::Wanted;
use super::connection::{Caller, Proxies};
use super::stream::LEAST_RATE;
use super::{events, head, page, percent, publish, snapshot};
use crate::broker::Status;
use crate::channel::{BadName, ChannelName};
use crate::ws::handshake::{self, Door, Rejection};

/// How long a request may take, beside the time that its body may take to arrive.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);

/// What channels answer to.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// Headers that pages may send.
const OUR_HEADERS: &str =
    "authorization, content-type, echocast-kind, idempotency-key, last-event-id, traceparent";

/// What the public port needs of its node.
#[derive(Debug)]
pub struct Public {
    /// Where sessions begin.
    pub door: Door,
    /// How the broker is.
    pub status: Arc<Status>,
    /// Networks of proxies whose `X-Forwarded-For` or `Forwarded` is believed.
    pub proxies: Arc<Proxies>,
    /// Permits to collect an answer: see [`COLLECTORS`].
    pub collecting: Semaphore,
}

/// Answers that are collected at the same time. Each yields after 16 KiB, so that others wait for
/// so many such pieces.
pub const COLLECTORS: usize = 16;

/// All paths.
pub fn router(public: Public) -> Router {
    Router::new().fallback(any).with_state(Arc::new(public))
}

async fn any(State(public): State<Arc<Public>>, request: Request) -> Response {
    let sharing = Sharing::of(request.headers());
    let wants_events =
        request.method() == Method::GET && Wanted::of(request.headers()) == Wanted::Events;
    let answered = timeout(public.patience(), public.answer(request)).await;
    let mut response = answered
        .unwrap_or(Err(Rejection::BrokerAway))
        .unwrap_or_else(|rejection| {
            public.count(&rejection);
            if wants_events && rejection.is_temporary() {
                events::come_back(&public, &rejection)
            } else {
                rejection.response()
            }
        });
    public.share(&mut response, sharing);
    response
}

/// The request's headers by which a browser asks whether a page of another origin may read the
/// answer.
#[derive(Debug)]
pub(super) struct Sharing {
    origin: Option<HeaderValue>,
    /// Headers that the page wants to send, in a preflight's `Access-Control-Request-Headers`.
    headers: Option<HeaderValue>,
}

impl Sharing {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let get = |name| headers.get(name).cloned();
        Self {
            origin: get(header::ORIGIN),
            headers: get(header::ACCESS_CONTROL_REQUEST_HEADERS),
        }
    }
}

impl Public {
    /// How long a whole request may take: that of the largest body, and what the broker needs.
    fn patience(&self) -> Duration {
        REQUEST_PATIENCE
            + Duration::from_secs(self.door.shared.limits.max_message as u64 / LEAST_RATE)
    }

    async fn answer(&self, request: Request) -> Result<Response, Rejection> {
        let caller = Caller::of(&request, &self.proxies, &self.door.limits)?;
        head::check(&request)?;
        // Before it is looked at: a name is the same however it is encoded.
        let path = percent::decoded(request.uri().path()).ok_or(BadName::Encoding)?;
        if path.starts_with("/_/") {
            return Ok(page::file(request.method(), &path));
        }
        let name = ChannelName::from_path(&path)?;
        self.channel(&name, caller, request).await
    }

    async fn channel(
        &self,
        name: &ChannelName,
        caller: Caller,
        request: Request,
    ) -> Result<Response, Rejection> {
        if handshake::is_meant(request.headers()) {
            return self.door.enter(name, caller, request).await;
        }
        if handshake::is_stripped(request.headers()) {
            return Err(Rejection::NoUpgrade);
        }
        match (request.method(), Wanted::of(request.headers())) {
            (&Method::POST, _) => publish::publish(self, name, &caller, request).await,
            (&Method::OPTIONS, _) => {
                Ok((StatusCode::NO_CONTENT, [(header::ALLOW, METHODS)]).into_response())
            }
            (&Method::GET, Wanted::Events) => events::events(self, name, caller, request).await,
            (&Method::GET | &Method::HEAD, Wanted::Snapshot) => {
                snapshot::snapshot(self, name, request).await
            }
            (&Method::HEAD, Wanted::Events) => events::answer_head(&request),
            (&Method::GET | &Method::HEAD, Wanted::Page) => Ok(page::page()),
            (&Method::GET | &Method::HEAD, _) => {
                let text = "here are a page (text/html), text/event-stream, application/json and websockets\n";
                Ok((StatusCode::NOT_ACCEPTABLE, text).into_response())
            }
            _ => {
                let text = "only GET, POST and websockets here\n";
                Ok((
                    StatusCode::METHOD_NOT_ALLOWED,
                    [(header::ALLOW, METHODS)],
                    text,
                )
                    .into_response())
            }
        }
    }

    fn count(&self, rejection: &Rejection) {
        tracing::debug!(reason = rejection.label(), "refused: {rejection}");
        // One that is turned away has been counted when it was accepted.
        if !matches!(rejection, Rejection::ConnectionLimit(_)) {
            self.door
                .shared
                .metrics
                .handshakes_refused
                .with_label_values(&[rejection.label()])
                .inc();
        }
    }

    /// Lets pages of allowed origins read the answer, as they may open WebSockets.
    pub(super) fn share(&self, response: &mut Response, sharing: Sharing) {
        let Some(origin) = sharing.origin else { return };
        let headers = response.headers_mut();
        headers.append(
            header::VARY,
            HeaderValue::from_static("origin, access-control-request-headers"),
        );
        let allowed = match &self.door.allow_origin {
            None => HeaderValue::from_static("*"),
            Some(_) if self.door.allows(&origin) => {
                // Never with `*`: any page could use its visitor's cookies.
                headers.insert(
                    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    HeaderValue::from_static("true"),
                );
                origin
            }
            Some(_) => return,
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(METHODS),
        );
        // Every header that is asked for, because tracing libraries add many of their own. No
        // header grants anything here.
        let ours = || HeaderValue::from_static(OUR_HEADERS);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            sharing.headers.unwrap_or_else(ours),
        );
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("retry-after"),
        );
        headers.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("3600"),
        );
    }
}
