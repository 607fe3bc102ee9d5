//! The handshake: which requests become sessions, and what the others are told. It owns everything between the request
//! and the raw socket; the session begins where it ends.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::net::TcpStream;

use super::gate::{Full, Gate, Permit};
use super::session::{Session, Shared};
use crate::channel::ChannelName;
use crate::feed::{Cursor, Start};
use crate::hub::Membership;
use crate::shutdown::Shutdown;

/// What RFC 6455 appends to a client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a handshake needs of its node.
#[derive(Debug)]
pub struct Door {
    /// What sessions share.
    pub shared: Arc<Shared>,
    /// How many may enter.
    pub gate: Arc<Gate>,
    /// Origins that may enter; `None` is any.
    pub allow_origin: Option<Vec<String>>,
    /// Whether anybody may enter any more.
    pub shutdown: Shutdown,
}

/// Why a request did not become a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it means")]
pub enum Refusal {
    #[error("{0}")]
    BadChannel(#[from] crate::channel::BadName),
    #[error("not a websocket handshake: {0}")]
    Malformed(&'static str),
    #[error("this server speaks websocket version 13")]
    Version,
    #[error("pages of origin {0:?} may not connect here")]
    Origin(String),
    #[error("a websocket handshake is a GET")]
    Method,
    #[error("{0}")]
    Full(#[from] Full),
    #[error("restarting, come back")]
    Draining,
    #[error("the broker is away, come back")]
    BrokerAway,
}

impl Refusal {
    /// What is counted of requests that never came to be: the HTTP server itself ends them.
    pub const TIMEOUT: &str = "timeout";
    /// The same for what is no HTTP, or has too long a head.
    pub const NO_HTTP: &str = "no_http";

    /// The values of the metric's label.
    pub const LABELS: [&str; 10] = [
        "bad_channel",
        "malformed",
        "version",
        "origin",
        "method",
        "too_many_connections",
        "draining",
        "broker_away",
        Self::TIMEOUT,
        Self::NO_HTTP,
    ];

    /// The value of the metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadChannel(_) => "bad_channel",
            Self::Malformed(_) => "malformed",
            Self::Version => "version",
            Self::Origin(_) => "origin",
            Self::Method => "method",
            Self::Full(_) => "too_many_connections",
            Self::Draining => "draining",
            Self::BrokerAway => "broker_away",
        }
    }

    /// The answer: a status and one line that says why.
    pub fn response(&self) -> Response {
        let (status, extra) = match self {
            Self::BadChannel(_) | Self::Malformed(_) => (StatusCode::BAD_REQUEST, None),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, Some((header::SEC_WEBSOCKET_VERSION, "13"))),
            Self::Origin(_) => (StatusCode::FORBIDDEN, None),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "GET"))),
            Self::Full(_) => (StatusCode::TOO_MANY_REQUESTS, Some((header::RETRY_AFTER, "5"))),
            Self::Draining | Self::BrokerAway => (StatusCode::SERVICE_UNAVAILABLE, Some((header::RETRY_AFTER, "1"))),
        };
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Whether a request means to become a WebSocket.
pub fn is_meant(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

impl Door {
    /// Answers a handshake. If it is sound, a session begins as soon as the answer is written; its place in the feed is
    /// taken before, so that it misses nothing.
    pub async fn enter(&self, name: &ChannelName, ip: IpAddr, mut request: Request) -> Result<Response, Refusal> {
        let accept = check(&request)?;
        self.check_origin(request.headers())?;
        let start = start(request.uri().query().unwrap_or_default());
        // While the drain delay lasts, balancers still send us clients: they are served like all others.
        if self.shutdown.listeners.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or(Refusal::Malformed("this connection cannot be upgraded"))?;
        let permit = self.gate.enter(ip)?;
        let membership = self.shared.hub.join(name);
        let cursor = membership.follow(start).await.map_err(|_| Refusal::BrokerAway)?;
        tracing::debug!(channel = name.as_str(), %ip, "connected");
        self.shared.metrics.connections_opened.inc();
        self.shutdown.sessions.spawn(run(upgrade, self.shared.clone(), membership, cursor, permit));

        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = first_protocol(request.headers()) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(response)
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let (Some(allowed), Some(origin)) = (&self.allow_origin, headers.get(header::ORIGIN)) else { return Ok(()) };
        let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
        if allowed.contains(&origin) { Ok(()) } else { Err(Refusal::Origin(origin)) }
    }
}

/// One session from the end of its handshake to its own.
async fn run(upgrade: OnUpgrade, shared: Arc<Shared>, membership: Membership, cursor: Cursor, permit: Permit) {
    let session = match upgrade.await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
        Ok(Ok(parts)) => Session::new(parts.io.into_inner(), parts.read_buf, shared, membership, cursor, permit),
        Ok(Err(_)) => return tracing::error!("an upgraded connection is no TCP stream"),
        // The client left before the answer was written.
        Err(error) => {
            shared.metrics.connections_closed.with_label_values(&[crate::metrics::WEBSOCKET, "disconnected"]).inc();
            return tracing::debug!("no upgrade: {error}");
        }
    };
    let reason = session.await;
    tracing::debug!(reason = reason.label(), "disconnected");
}

/// Checks what RFC 6455 (4.2.1) asks of a handshake; returns the proof that we understood it.
fn check(request: &Request) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    if request.method() != axum::http::Method::GET {
        return Err(Refusal::Method);
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::Malformed("it needs HTTP/1.1"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Refusal::Malformed("the Connection header does not say Upgrade"));
    }
    match headers.get(header::SEC_WEBSOCKET_VERSION) {
        None => return Err(Refusal::Malformed("no Sec-WebSocket-Version")),
        Some(version) if version != "13" => return Err(Refusal::Version),
        Some(_) => {}
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refusal::Malformed("no Sec-WebSocket-Key"))?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err(Refusal::Malformed("the Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).map_err(|_| Refusal::Malformed("no answer to this key"))
}

/// Where the query asks to begin. Any query is accepted: what we do not understand is somebody else's business.
fn start(query: &str) -> Start {
    let last = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "last");
    last.and_then(|(_, count)| count.parse().ok()).map_or(Start::Newest, Start::Last)
}

/// The first subprotocol a client offers is the one it gets: what is inside its messages is between clients.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offered.split(',').map(str::trim).find(|protocol| !protocol.is_empty())?;
    HeaderValue::from_str(first).ok()
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}
