//! The handshake of a WebSocket, without I/O: which requests are sound, the format they ask for, and
//! the answer.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::extension::{self, Agreement};
use super::session::SessionOptions;
use super::v1;
use crate::client::header_list;
use crate::client::origin::{is_browser, is_handshake};
use crate::client::query::{self, BadParameter, SubscribeOptions};
use crate::client::rejection::Rejection;
use crate::hub::Subscription;
use crate::message::{Format, Shape, put_text};

/// The constant that RFC 6455 appends to a client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The header that names this service and its version. `Server` names the proxy where there is one.
pub const VERSION: HeaderName = HeaderName::from_static("echocast-version");

/// A handshake that can be answered.
#[derive(Debug)]
pub struct Handshake {
    /// The proof that the client's key was understood.
    accept: HeaderValue,
    /// The client's subscription.
    pub options: SubscribeOptions,
    /// The subprotocol of the answer.
    protocol: Option<HeaderValue>,
    shape: Shape,
    /// The agreed `permessage-deflate`, if any.
    deflate: Option<Agreement>,
}

/// Whether a request is a WebSocket handshake without its `Upgrade`, which proxies remove by
/// default.
pub fn is_stripped(headers: &HeaderMap) -> bool {
    headers.contains_key(header::SEC_WEBSOCKET_KEY) && !is_handshake(headers)
}

impl Handshake {
    /// Reads the options of a handshake. `accept` is what [`check`] returned for the same request.
    ///
    /// # Errors
    /// If an option has a value without a meaning.
    pub fn read(
        accept: HeaderValue,
        request: &Request,
        allows_deflate: bool,
    ) -> Result<Self, Rejection> {
        let headers = request.headers();
        let query = request.uri().query().unwrap_or_default();
        let options = query::subscribe_options(query, headers)?;
        let (shape, protocol) = protocol(headers)?;
        let offers = header_list::lines(headers, header::SEC_WEBSOCKET_EXTENSIONS);
        let deflate =
            extension::negotiate(offers, is_browser(headers, false)).filter(|_| allows_deflate);
        Ok(Self {
            accept,
            options,
            protocol,
            shape,
            deflate,
        })
    }

    /// The session's options.
    pub fn session_options(&self) -> SessionOptions {
        let deflate = self.deflate.as_ref();
        SessionOptions {
            format: Format {
                shape: self.shape,
                deflate: deflate.map(|agreement| agreement.window),
            },
            echo: self.options.echo,
            client_history: deflate.and_then(|agreement| agreement.client_history),
        }
    }

    /// The frames that the client receives first.
    pub fn greeting(&self, subscription: &Subscription, node: u64) -> Vec<u8> {
        let mut greeting = Vec::new();
        if self.shape == Shape::V1 {
            put_text(v1::welcome(subscription, node).as_bytes(), &mut greeting);
        }
        greeting
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        // A client that speaks more than raw needs it to know this service, because others echo any
        // subprotocol, too.
        headers.insert(VERSION, HeaderValue::from_static(crate::VERSION));
        // The answer is ASCII, so it always is a header's value.
        if let Some(agreement) = self.deflate
            && let Ok(answer) = HeaderValue::try_from(agreement.answer)
        {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, answer);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Checks a handshake by RFC 6455, section 4.2.1. Returns the proof that the key was understood.
///
/// # Errors
/// If the request breaks a rule.
pub fn check(request: &Request) -> Result<HeaderValue, Rejection> {
    check_request(request)?;
    check_version(request.headers())?;
    accept_key(request.headers())
}

fn check_request(request: &Request) -> Result<(), Rejection> {
    if request.method() != Method::GET {
        return Err(Rejection::Method);
    }
    // HTTP/2 has a handshake of its own, which we do not offer.
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::Malformed("it needs HTTP/1.1"));
    }
    // A body would have to be read before the connection is a WebSocket, or be taken for frames.
    if !request.body().is_end_stream() {
        return Err(Rejection::Malformed("a handshake has no body"));
    }
    if !header_list::contains(request.headers(), header::CONNECTION, "upgrade") {
        return Err(Rejection::Malformed(
            "the Connection header does not say Upgrade",
        ));
    }
    Ok(())
}

fn check_version(headers: &HeaderMap) -> Result<(), Rejection> {
    match query::header(headers, "Sec-WebSocket-Version")? {
        None => Err(Rejection::Malformed("no Sec-WebSocket-Version")),
        Some(version) if version != "13" => Err(Rejection::Version),
        Some(_) => Ok(()),
    }
}

/// The proof that the client's key was understood.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Rejection> {
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

/// The shape of a client's messages, and the subprotocol of the answer: ours if it offers that, else
/// the first, because then the clients agree among themselves about their messages.
fn protocol(headers: &HeaderMap) -> Result<(Shape, Option<HeaderValue>), BadParameter> {
    let offered = offered_protocols(headers)?;
    if offered.contains(&v1::PROTOCOL.as_bytes()) {
        return Ok((Shape::V1, Some(HeaderValue::from_static(v1::PROTOCOL))));
    }
    let first = offered.first();
    let first = first.and_then(|first| HeaderValue::from_bytes(first).ok());
    Ok((Shape::Raw, first))
}

/// The subprotocols that a client offers, in its order.
fn offered_protocols(headers: &HeaderMap) -> Result<Vec<&[u8]>, BadParameter> {
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
    Ok(offered)
}
