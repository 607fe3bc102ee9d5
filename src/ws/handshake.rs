//! The handshake: which requests become sessions, and what the others are told. It owns everything
//! between the request and the raw socket; the session begins where it ends.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::{OnUpgrade, Upgraded};
use sha1::{Digest, Sha1};

use super::extension;
use super::opening::Opening;
use super::session::{Shared, Wishes};
use super::shard::Shards;
use super::v1;
use crate::channel::ChannelName;
use crate::client::close_reason::CloseReason;
use crate::client::connection_limits::{ConnectionLimits, LimitReached};
use crate::http::connection::Caller;
use crate::http::query::BadParameter;
use crate::http::stream::Stream;
use crate::http::{head, query};
use crate::hub::{BrokerAway, TooManyChannels};
use crate::message::{Format, Shape, put_text};
use crate::metrics::Transport;
use crate::shutdown::Shutdown;

/// What RFC 6455 appends to a client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The header that says who answers; proxies put themselves into `Server`.
pub const VERSION: HeaderName = HeaderName::from_static("echocast-version");

/// What a handshake needs of its node.
#[derive(Debug)]
pub struct Door {
    /// The parts of a node that all sessions use.
    pub shared: Arc<Shared>,
    /// The tasks that poll the sessions.
    pub shards: Arc<Shards>,
    /// How many may enter.
    pub limits: Arc<ConnectionLimits>,
    /// Whether permessage-deflate is negotiated.
    pub deflate: bool,
    /// Origins that may enter; `None` is any.
    pub allow_origin: Option<Vec<String>>,
    /// Whether anybody may enter any more.
    pub shutdown: Shutdown,
}

/// Why a request did not become a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it means")]
pub enum Rejection {
    #[error("{0}")]
    BadChannel(#[from] crate::channel::BadName),
    #[error("{0}")]
    BadParameter(#[from] BadParameter),
    #[error("not a websocket handshake: {0}")]
    Malformed(&'static str),
    #[error(
        "a websocket handshake without its header `Upgrade: websocket`; a proxy on the way has probably removed it \
        (nginx passes it with `proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade` and \
        `proxy_set_header Connection upgrade`)"
    )]
    NoUpgrade,
    #[error("this server speaks websocket version 13")]
    Version,
    #[error("pages of origin {0:?} may not connect here")]
    Origin(String),
    #[error("a page of a host that is no allowed origin's ({0:?}) may not connect here")]
    Host(String),
    #[error("a request's head has at most {0} bytes")]
    HeadTooLarge(usize),
    #[error("a websocket handshake is a GET")]
    Method,
    #[error("a message has at most {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Unreadable(&'static str),
    #[error("{0}; it was not published, come back")]
    Busy(String),
    #[error(
        "it may have been published, nobody said so in time; with an Idempotency-Key it can be repeated safely"
    )]
    Unconfirmed,
    #[error("this Idempotency-Key belongs to another message; it was not published")]
    KeyTaken,
    #[error("{0}")]
    AddressLimit(#[from] LimitReached),
    #[error("{0}")]
    ConnectionLimit(LimitReached),
    #[error("{0}")]
    Rate(&'static str),
    #[error("this node holds as many channels as it may; come back, or use one of them")]
    Channels,
    #[error("this node is short of memory, come back")]
    Memory,
    #[error("restarting, come back")]
    Draining,
    #[error("the broker is away, come back")]
    BrokerAway,
}

impl From<TooManyChannels> for Rejection {
    fn from(TooManyChannels: TooManyChannels) -> Self {
        Self::Channels
    }
}

impl From<BrokerAway> for Rejection {
    fn from(BrokerAway: BrokerAway) -> Self {
        Self::BrokerAway
    }
}

impl Rejection {
    /// What is counted of requests that never came to be: the HTTP server itself ends them.
    pub const TIMEOUT: &str = "timeout";
    /// The same for what is no HTTP, or has too long a head.
    pub const NO_HTTP: &str = "no_http";

    /// The values of the metric's label.
    pub const LABELS: [&str; 21] = [
        "bad_channel",
        "bad_parameter",
        "malformed",
        "no_upgrade",
        "version",
        "origin",
        "method",
        LimitReached::LABEL,
        "rate",
        "head_too_large",
        "too_many_channels",
        "memory",
        "draining",
        "broker_away",
        "too_large",
        "unreadable",
        "busy",
        "unconfirmed",
        "key_taken",
        Self::TIMEOUT,
        Self::NO_HTTP,
    ];

    /// The value of the metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadChannel(_) => "bad_channel",
            Self::BadParameter(_) => "bad_parameter",
            Self::Malformed(_) => "malformed",
            Self::NoUpgrade => "no_upgrade",
            Self::Version => "version",
            Self::Origin(_) | Self::Host(_) => "origin",
            Self::HeadTooLarge(_) => "head_too_large",
            Self::Method => "method",
            Self::AddressLimit(_) | Self::ConnectionLimit(_) => LimitReached::LABEL,
            Self::Rate(_) => "rate",
            Self::Channels => "too_many_channels",
            Self::Memory => "memory",
            Self::Draining => "draining",
            Self::BrokerAway => "broker_away",
            Self::TooLarge(_) => "too_large",
            Self::Unreadable(_) => "unreadable",
            Self::Busy(_) => "busy",
            Self::Unconfirmed => "unconfirmed",
            Self::KeyTaken => "key_taken",
        }
    }

    /// Whether the same request may succeed soon although nothing changes on its side.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Rate(_)
            | Self::Channels
            | Self::Memory
            | Self::Draining
            | Self::BrokerAway
            | Self::Busy(_)
            | Self::Unconfirmed => true,
            Self::BadChannel(_)
            | Self::BadParameter(_)
            | Self::Malformed(_)
            | Self::NoUpgrade
            | Self::Version
            | Self::Origin(_)
            | Self::Host(_)
            | Self::HeadTooLarge(_)
            | Self::Method
            | Self::TooLarge(_)
            | Self::Unreadable(_)
            | Self::KeyTaken
            | Self::AddressLimit(_)
            | Self::ConnectionLimit(_) => false,
        }
    }

    /// The answer: a status and one line that says why.
    pub fn response(&self) -> Response {
        let (status, extra) = match self {
            Self::BadChannel(_)
            | Self::BadParameter(_)
            | Self::Malformed(_)
            | Self::Unreadable(_) => (StatusCode::BAD_REQUEST, None),
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                Some((header::UPGRADE, "websocket")),
            ),
            Self::Version => (
                StatusCode::UPGRADE_REQUIRED,
                Some((header::SEC_WEBSOCKET_VERSION, "13")),
            ),
            Self::Origin(_) | Self::Host(_) => (StatusCode::FORBIDDEN, None),
            Self::HeadTooLarge(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "GET"))),
            Self::AddressLimit(_) | Self::ConnectionLimit(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                Some((header::RETRY_AFTER, "5")),
            ),
            Self::Rate(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                Some((header::RETRY_AFTER, "1")),
            ),
            Self::KeyTaken => (StatusCode::CONFLICT, None),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Channels
            | Self::Memory
            | Self::Draining
            | Self::BrokerAway
            | Self::Busy(_)
            | Self::Unconfirmed => (
                StatusCode::SERVICE_UNAVAILABLE,
                Some((header::RETRY_AFTER, "1")),
            ),
        };
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = status;
        if matches!(self, Self::ConnectionLimit(_)) {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if let Some((name, value)) = extra {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Whether a request means to become a WebSocket.
pub fn is_meant(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

/// Whether a request is a WebSocket handshake without its `Upgrade`, which proxies remove by
/// default.
pub fn is_stripped(headers: &HeaderMap) -> bool {
    headers.contains_key(header::SEC_WEBSOCKET_KEY) && !is_meant(headers)
}

impl Door {
    /// Answers a handshake. If it is sound, a session begins as soon as the answer is written; its
    /// place in the feed is taken before, so that it misses nothing.
    pub async fn enter(
        &self,
        name: &ChannelName,
        caller: Caller,
        mut request: Request,
    ) -> Result<Response, Rejection> {
        let accept = check(&request)?;
        self.admit(request.method(), request.headers())?;
        let options =
            query::subscribe_options(request.uri().query().unwrap_or_default(), request.headers())?;
        let (shape, protocol) = protocol(request.headers())?;
        let offers = values(request.headers(), header::SEC_WEBSOCKET_EXTENSIONS);
        let agreement = extension::negotiate(offers).filter(|_| self.deflate);
        let deflate = agreement.map(|agreement| agreement.window);
        let wishes = Wishes {
            format: Format { shape, deflate },
            echo: options.echo,
        };
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or(Rejection::Malformed("this connection cannot be upgraded"))?;
        let ip = caller.ip;
        let subscription = self
            .shared
            .hub
            .join_as_subscriber(name)?
            .subscribe(options.start)
            .await?;
        // Not before: a connection whose request is refused stays what it is, and counts.
        let permit = caller.into_permit(Transport::WebSocket)?;
        tracing::debug!(channel = name.as_str(), %ip, "connected");
        self.shared.metrics.websocket.opened.inc();
        let mut greeting = Vec::new();
        if shape == Shape::V1 {
            put_text(
                v1::welcome(&subscription, self.shared.node).as_bytes(),
                &mut greeting,
            );
        }
        let opening = Opening {
            shared: self.shared.clone(),
            shards: self.shards.clone(),
            shutdown: self.shutdown.clone(),
            subscription,
            wishes,
            permit,
            greeting,
        };
        self.shutdown.sessions.spawn(begin(upgrade, opening));

        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        // So that clients which speak more than raw know whom they talk to: others echo any
        // subprotocol, too.
        headers.insert(VERSION, HeaderValue::from_static(crate::VERSION));
        if let Some(agreement) = agreement {
            headers.insert(
                header::SEC_WEBSOCKET_EXTENSIONS,
                HeaderValue::from_static(agreement.answer),
            );
        }
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(response)
    }

    /// Whether anybody of this origin is served now.
    pub fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Rejection> {
        self.check_origin(method, headers)?;
        // While the drain delay lasts, balancers still send us clients: they are served like all
        // others.
        if self.shutdown.listeners.is_cancelled() {
            Err(Rejection::Draining)
        } else {
            Ok(())
        }
    }

    fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Rejection> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.find(|origin| !self.allows(origin)) {
            return Err(Rejection::Origin(readable(origin)));
        }
        if headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        // Browsers send it with everything that publishes, and with every handshake.
        self.check_host(headers, *method == Method::GET && !is_meant(headers))
    }

    /// A page whose name was bound anew to this node's address sends no `Origin`, because it takes
    /// this node for its own server. It cannot hide that name, nor that it is in a browser.
    fn check_host(&self, headers: &HeaderMap, reads: bool) -> Result<(), Rejection> {
        let Some(allowed) = self
            .allow_origin
            .as_ref()
            .filter(|_| is_browser(headers, reads))
        else {
            return Ok(());
        };
        let named = headers.get(header::HOST).map(readable).unwrap_or_default();
        let origins = allowed.iter().filter_map(|origin| origin.split_once("://"));
        if origins
            .map(|(_, host)| head::host(host))
            .any(|host| host == head::host(&named))
        {
            return Ok(());
        }
        Err(Rejection::Host(named))
    }

    /// Whether pages of this origin are served.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        self.allow_origin
            .as_ref()
            .is_none_or(|allowed| allowed.contains(&readable(origin)))
    }
}

/// Whether a request shows signs of a browser. Node's `fetch` shows some, too: they count only
/// where a page could have left out `Origin`, which is where it `reads`.
fn is_browser(headers: &HeaderMap, reads: bool) -> bool {
    let agent = headers
        .get(header::USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    let language = headers
        .get(header::ACCEPT_LANGUAGE)
        .is_some_and(|language| reads || language != "*");
    let mut fetch = headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.starts_with("sec-fetch-"));
    let fetch = fetch.any(|name| reads || name != "sec-fetch-mode");
    agent || fetch || language || headers.contains_key(header::REFERER)
}

fn readable(origin: &HeaderValue) -> String {
    String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase()
}

/// A session from the end of its handshake on.
async fn begin(upgrade: OnUpgrade, opening: Opening) {
    match upgrade.await.map(Upgraded::downcast::<Stream>) {
        Ok(Ok(parts)) => match parts.io.into_inner() {
            Some(stream) => opening.begin(stream, parts.read_buf),
            None => tracing::error!("an upgraded connection has no TCP stream"),
        },
        Ok(Err(_)) => tracing::error!("an upgraded connection is no TCP stream"),
        // The client left before the answer was written.
        Err(error) => {
            opening
                .shared
                .metrics
                .websocket
                .closed(CloseReason::Disconnected.label());
            tracing::debug!("no upgrade: {error}");
        }
    }
}

/// Checks what RFC 6455 (4.2.1) asks of a handshake; returns the proof that we understood it.
fn check(request: &Request) -> Result<HeaderValue, Rejection> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Rejection::Method);
    }
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::Malformed("it needs HTTP/1.1"));
    }
    if !request.body().is_end_stream() {
        // It would have to be read before the connection is a WebSocket, or be taken for frames.
        return Err(Rejection::Malformed("a handshake has no body"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Rejection::Malformed(
            "the Connection header does not say Upgrade",
        ));
    }
    match query::header(headers, "Sec-WebSocket-Version")? {
        None => return Err(Rejection::Malformed("no Sec-WebSocket-Version")),
        Some(version) if version != "13" => return Err(Rejection::Version),
        Some(_) => {}
    }
    let key = query::header(headers, "Sec-WebSocket-Key")?
        .ok_or(Rejection::Malformed("no Sec-WebSocket-Key"))?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err(Rejection::Malformed(
            "the Sec-WebSocket-Key is not 16 bytes in base64",
        ));
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest))
        .map_err(|_| Rejection::Malformed("no answer to this key"))
}

/// The format a client gets, and the subprotocol it is told: ours if it offers that, else the
/// first, because what is inside its messages is between clients.
fn protocol(headers: &HeaderMap) -> Result<(Shape, Option<HeaderValue>), BadParameter> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    let bad = |_| BadParameter {
        name: NAME,
        why: "it is a list of names, without spaces in them",
    };
    let mut offered = Vec::new();
    for line in headers.get_all(NAME) {
        // An element may be empty: RFC 9110, section 5.6.1.
        let elements = line
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii);
        for protocol in elements.filter(|element| !element.is_empty()) {
            // Names of subprotocols have the characters of those of headers.
            HeaderName::from_bytes(protocol).map_err(bad)?;
            offered.push(protocol);
        }
    }
    if offered.contains(&v1::PROTOCOL.as_bytes()) {
        return Ok((Shape::V1, Some(HeaderValue::from_static(v1::PROTOCOL))));
    }
    Ok((
        Shape::Raw,
        offered
            .first()
            .and_then(|first| HeaderValue::from_bytes(first).ok()),
    ))
}

/// Whether one of a header's values, which are lists, has this word.
pub(crate) fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}
