//! The headers by which a publisher describes its message.

use axum::http::{HeaderMap, HeaderValue};

use crate::client::query::{self, BadParameter};
use crate::message::Kind;
use crate::ws::v1::MAX_KEY;

/// The header with the message's key.
const KEY: &str = "Idempotency-Key";

/// The header with the message's kind.
const KIND: &str = "Echocast-Kind";

/// The header with the trace it belongs to.
const TRACEPARENT: &str = "traceparent";

/// A publisher's description of its message.
pub(super) struct PublishOptions<'a> {
    /// `None` leaves the choice to the node.
    kind: Option<Kind>,
    /// The same key within the history is kept once.
    pub(super) key: Option<String>,
    pub(super) traceparent: Option<&'a str>,
}

impl<'a> PublishOptions<'a> {
    pub(super) fn read(headers: &'a HeaderMap) -> Result<Self, BadParameter> {
        Ok(Self {
            kind: kind(headers)?,
            key: key(headers)?,
            traceparent: traceparent(headers),
        })
    }

    /// The kind of the message with this body. `Content-Type` does not decide: HTTP libraries choose
    /// one that has nothing to do with the message, such as `application/octet-stream` for a string.
    pub(super) fn kind_of(&self, body: &[u8]) -> Result<Kind, BadParameter> {
        let is_text = simdutf8::basic::from_utf8(body).is_ok();
        match (self.kind, is_text) {
            (Some(Kind::Text), false) => Err(BadParameter::new(
                KIND,
                "the body is not UTF-8, so it is no text",
            )),
            (Some(kind), _) => Ok(kind),
            (None, true) => Ok(Kind::Text),
            (None, false) => Ok(Kind::Binary),
        }
    }
}

fn kind(headers: &HeaderMap) -> Result<Option<Kind>, BadParameter> {
    match query::header(headers, KIND)?.map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(kind) if kind.eq_ignore_ascii_case(b"text") => Ok(Some(Kind::Text)),
        Some(kind) if kind.eq_ignore_ascii_case(b"binary") => Ok(Some(Kind::Binary)),
        Some(_) => Err(BadParameter::new(KIND, "it is text or binary")),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, BadParameter> {
    let Some(key) = query::header(headers, KEY)? else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(BadParameter::new(
            KEY,
            "it has 1 to 256 characters of ASCII",
        )),
    }
}

/// A value without a meaning is ignored, as the W3C's specification of the header asks for.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let header = query::header(headers, TRACEPARENT).ok().flatten();
    header.and_then(|trace| trace.to_str().ok())
}
