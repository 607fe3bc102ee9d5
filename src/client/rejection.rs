//! Why a request is rejected, with the answer and the metric's label of each reason. Every kind of
//! client gets the same status and the same words for the same reason.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::connection_limits::LimitReached;
use super::query::BadParameter;
use crate::channel::BadName;
use crate::hub::{BrokerAway, TooManyChannels};

/// Why a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each is its description")]
pub enum Rejection {
    #[error("{0}")]
    BadChannel(#[from] BadName),
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
        "it may have been published: the broker did not acknowledge it in time; with an Idempotency-Key it can be \
        repeated safely"
    )]
    Unconfirmed,
    #[error("this Idempotency-Key belongs to another message; it was not published")]
    KeyTaken,
    /// One request is over its client's limit. Its connection, a proxy's, goes on.
    #[error("{0}")]
    AddressLimit(#[from] LimitReached),
    /// The connection itself is over the limits and ends with this answer.
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
    /// Label of connections that the HTTP server ends because no complete head came in time.
    pub(crate) const TIMEOUT: &str = "timeout";
    /// Label of connections that the HTTP server ends because the bytes are no HTTP, or the head is
    /// too long for its buffer.
    pub(crate) const NO_HTTP: &str = "no_http";

    /// All labels of the metric.
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

    /// Its label in the metric.
    pub(crate) fn label(&self) -> &'static str {
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

    /// Whether the same request may succeed soon although the client changes nothing.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE || matches!(self, Self::Rate(_))
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadChannel(_)
            | Self::BadParameter(_)
            | Self::Malformed(_)
            | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Origin(_) | Self::Host(_) => StatusCode::FORBIDDEN,
            Self::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeyTaken => StatusCode::CONFLICT,
            Self::AddressLimit(_) | Self::ConnectionLimit(_) | Self::Rate(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Channels
            | Self::Memory
            | Self::Draining
            | Self::BrokerAway
            | Self::Busy(_)
            | Self::Unconfirmed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The header that tells a program what to do next.
    fn advice(&self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::NoUpgrade => Some((header::UPGRADE, "websocket")),
            Self::Version => Some((header::SEC_WEBSOCKET_VERSION, "13")),
            Self::Method => Some((header::ALLOW, "GET")),
            Self::AddressLimit(_) | Self::ConnectionLimit(_) => Some((header::RETRY_AFTER, "5")),
            _ if self.is_temporary() => Some((header::RETRY_AFTER, "1")),
            _ => None,
        }
    }

    /// The answer: a status, and one line with the reason.
    pub(crate) fn response(&self) -> Response {
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, text);
        if let Some((name, value)) = self.advice() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if matches!(self, Self::ConnectionLimit(_)) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
