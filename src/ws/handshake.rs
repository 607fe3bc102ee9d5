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

use super::close::CloseReason;
use super::extension;
use super::gate::{Full, Gate, Permit};
use super::opening::open;
use super::session::{Session, Shared, Wishes};
use super::shard::Shards;
use super::socket::Socket;
use super::v1;
use crate::channel::ChannelName;
use crate::http::query;
use crate::hub::{BrokerAway, Subscription};
use crate::message::{Format, Shape};
use crate::metrics::Way;
use crate::shutdown::Shutdown;

/// What RFC 6455 appends to a client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The header that says who answers; proxies put themselves into `Server`.
pub const VERSION: HeaderName = HeaderName::from_static("echocast-version");

/// What a handshake needs of its node.
#[derive(Debug)]
pub struct Door {
    /// What sessions share.
    pub shared: Arc<Shared>,
    /// Who polls them.
    pub shards: Arc<Shards>,
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
    #[error("a message has at most {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Unreadable(&'static str),
    #[error("{0}; it was not published, come back")]
    Busy(String),
    #[error("it may have been published, nobody said so in time; with an Idempotency-Key it can be repeated safely")]
    Unconfirmed,
    #[error("{0}")]
    Full(#[from] Full),
    #[error("restarting, come back")]
    Draining,
    #[error("the broker is away, come back")]
    BrokerAway,
}

impl From<BrokerAway> for Refusal {
    fn from(BrokerAway: BrokerAway) -> Self {
        Self::BrokerAway
    }
}

impl Refusal {
    /// What is counted of requests that never came to be: the HTTP server itself ends them.
    pub const TIMEOUT: &str = "timeout";
    /// The same for what is no HTTP, or has too long a head.
    pub const NO_HTTP: &str = "no_http";

    /// The values of the metric's label.
    pub const LABELS: [&str; 14] = [
        "bad_channel",
        "malformed",
        "version",
        "origin",
        "method",
        "too_many_connections",
        "draining",
        "broker_away",
        "too_large",
        "unreadable",
        "busy",
        "unconfirmed",
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
            Self::TooLarge(_) => "too_large",
            Self::Unreadable(_) => "unreadable",
            Self::Busy(_) => "busy",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    /// The answer: a status and one line that says why.
    pub fn response(&self) -> Response {
        let (status, extra) = match self {
            Self::BadChannel(_) | Self::Malformed(_) | Self::Unreadable(_) => (StatusCode::BAD_REQUEST, None),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, Some((header::SEC_WEBSOCKET_VERSION, "13"))),
            Self::Origin(_) => (StatusCode::FORBIDDEN, None),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "GET"))),
            Self::Full(_) => (StatusCode::TOO_MANY_REQUESTS, Some((header::RETRY_AFTER, "5"))),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Draining | Self::BrokerAway | Self::Busy(_) | Self::Unconfirmed => {
                (StatusCode::SERVICE_UNAVAILABLE, Some((header::RETRY_AFTER, "1")))
            }
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
        self.admit(request.headers())?;
        let wanted = request.uri().query().unwrap_or_default();
        let start = query::start(wanted, request.headers());
        let (shape, protocol) = protocol(request.headers());
        let deflate = extension::negotiate(values(request.headers(), header::SEC_WEBSOCKET_EXTENSIONS));
        let wishes = Wishes { format: Format { shape, deflate }, echo: query::echo(wanted) };
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or(Refusal::Malformed("this connection cannot be upgraded"))?;
        let permit = self.gate.enter(ip, Way::WebSocket)?;
        let subscription = self.shared.hub.join(name).subscribe(start).await?;
        tracing::debug!(channel = name.as_str(), %ip, "connected");
        self.shared.metrics.websocket.opened.inc();
        let shutdown = self.shutdown.clone();
        let (shared, shards) = (self.shared.clone(), self.shards.clone());
        self.shutdown.sessions.spawn(begin(upgrade, (shared, shards), subscription, wishes, permit, shutdown));

        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        // So that clients which speak more than raw know whom they talk to: others echo any subprotocol, too.
        headers.insert(VERSION, HeaderValue::from_static(crate::VERSION));
        if let Some(window) = deflate {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(extension::answer(window)));
        }
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(response)
    }

    /// Whether anybody of this origin is served now.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check_origin(headers)?;
        // While the drain delay lasts, balancers still send us clients: they are served like all others.
        if self.shutdown.listeners.is_cancelled() { Err(Refusal::Draining) } else { Ok(()) }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match headers.get(header::ORIGIN) {
            Some(origin) if !self.allows(origin) => Err(Refusal::Origin(readable(origin))),
            _ => Ok(()),
        }
    }

    /// Whether pages of this origin are served.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        self.allow_origin.as_ref().is_none_or(|allowed| allowed.contains(&readable(origin)))
    }
}

fn readable(origin: &HeaderValue) -> String {
    String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase()
}

/// A session from the end of its handshake to the live feed.
async fn begin(
    upgrade: OnUpgrade,
    (shared, shards): (Arc<Shared>, Arc<Shards>),
    subscription: Subscription,
    wishes: Wishes,
    permit: Permit,
    shutdown: Shutdown,
) {
    let mut parts = match upgrade.await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
        Ok(Ok(parts)) => parts,
        Ok(Err(_)) => return tracing::error!("an upgraded connection is no TCP stream"),
        // The client left before the answer was written.
        Err(error) => {
            shared.metrics.websocket.closed(CloseReason::Disconnected.label());
            return tracing::debug!("no upgrade: {error}");
        }
    };
    let opened = tokio::select! {
        opened = open(parts.io.inner_mut(), &shared, subscription, wishes.format) => opened,
        // Whoever is still being told what it missed goes on with that elsewhere.
        () = shutdown.listeners.cancelled() => Err(CloseReason::Drain),
    };
    match opened {
        Ok(place) => match Socket::new(parts.io.into_inner()) {
            Ok(socket) => {
                let session = Session::new(socket, parts.read_buf, shared, place, wishes, permit);
                shards.take_in(session, shutdown.sessions.token());
            }
            Err(error) => {
                tracing::error!("cannot take over a socket: {error}");
                shared.metrics.websocket.closed(CloseReason::Internal.label());
            }
        },
        Err(reason) => shared.metrics.websocket.closed(reason.label()),
    }
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

/// The format a client gets, and the subprotocol it is told: ours if it offers that, else the first, because what is
/// inside its messages is between clients.
fn protocol(headers: &HeaderMap) -> (Shape, Option<HeaderValue>) {
    let offered = values(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty());
    let offered: Vec<&str> = offered.collect();
    if offered.contains(&v1::PROTOCOL) {
        return (Shape::V1, Some(HeaderValue::from_static(v1::PROTOCOL)));
    }
    (Shape::Raw, offered.first().and_then(|first| HeaderValue::from_str(first).ok()))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    values(headers, name).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}
