//! Publishing by a single request: its body is the message.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::context::Context;
use crate::budget::{Charge, Part};
use crate::channel::ChannelName;
use crate::client::caller::Caller;
use crate::client::query::{self, BadParameter};
use crate::client::rate::{LEAST_RATE, PublishRates};
use crate::client::rejection::Rejection;
use crate::hub::{PublishError, Receipt};
use crate::message::Kind;
use crate::telemetry;
use crate::ws::v1::MAX_KEY;

/// How long a body may take to arrive, beside what its size allows.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long the broker may take to hold a message before its publisher is told that nobody knows.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// More than `--byte-rate`.
const TOO_MANY_BYTES: Rejection = Rejection::Rate("too many bytes a second on one connection");

/// Why a message is refused that the inbox has no room for.
const INBOX_FULL: &str = "too much is waiting to be published";

/// The header that gives a message its key.
const KEY: &str = "Idempotency-Key";

/// The header that says of which kind a message is.
const KIND: &str = "Echocast-Kind";

/// The header that names the trace it belongs to. One that means nothing is ignored, as its
/// specification asks for.
const TRACEPARENT: &str = "traceparent";

pub(super) async fn publish(
    context: &Context,
    name: &ChannelName,
    caller: &Caller,
    request: Request,
) -> Result<Response, Rejection> {
    context.admit(request.method(), request.headers())?;
    let shared = &context.shared;
    let (parts, body) = request.into_parts();
    // They mean nothing here. But it is one address for all requests, and wrong in one is wrong in
    // all.
    query::subscribe_options(parts.uri.query().unwrap_or_default(), &parts.headers)?;
    let key = key(&parts.headers)?;
    let kind = kind(&parts.headers)?;
    if !caller.publish_rates().allows_message() {
        return Err(Rejection::Rate(
            "too many messages a second on one connection",
        ));
    }
    // All that needs no body comes before it: a client that waits with it (`Expect: 100-continue`)
    // need not send it then.
    let body = Announced::new(body, shared.limits.max_message, caller.publish_rates())?;
    check_node(context)?;
    check_channel(context, name)?;
    // Counted while it arrives, and until the inbox has it.
    let mut charge = shared.hub.budget().charge(Part::Input, 0);
    let body = body.whole(&mut charge).await?;
    let kind = kind_of(&body, kind)?;
    // Again: a body may take a while. And first, because a channel that comes to be may take the
    // place of another's history.
    check_node(context)?;
    let visit = shared.hub.join_as_publisher(name)?;
    if !shared.hub.inbox().has_room_for(visit.channel()) {
        return Err(Rejection::Busy(INBOX_FULL.to_owned()));
    }

    if shared.log_messages {
        telemetry::log_message(name.as_str(), kind, &body);
    }
    shared.metrics.http.received_bytes.inc_by(body.len() as u64);
    shared.metrics.http.received.inc();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let receipt = Receipt {
        reference: String::new(),
        answers,
    };
    let trace = query::header(&parts.headers, TRACEPARENT)
        .ok()
        .flatten()
        .and_then(|trace| trace.to_str().ok());
    let publication = visit.channel().publish(shared.hub.inbox());
    publication
        .continuing(telemetry::continued(trace))
        .push_with(kind, &body, 0, key, Some(receipt));
    drop((body, charge));
    match timeout(BROKER_PATIENCE, answered.recv()).await {
        Ok(Some(answer)) => match answer.outcome {
            Ok(id) => Ok(Json(json!({ "id": id.map(|id| id.to_string()) })).into_response()),
            Err(PublishError::Rejected(why)) => Err(Rejection::Busy(why)),
            Err(PublishError::KeyTaken) => Err(Rejection::KeyTaken),
        },
        Ok(None) | Err(_) => Err(Rejection::Unconfirmed),
    }
}

/// Whether this node could publish a message now.
fn check_node(context: &Context) -> Result<(), Rejection> {
    let hub = &context.shared.hub;
    if !context.status.is_up() {
        return Err(Rejection::BrokerAway);
    }
    if !hub.budget().has_room() {
        hub.make_room();
        return Err(Rejection::Memory);
    }
    Ok(())
}

/// Whether this channel could take a message now, without making it.
fn check_channel(context: &Context, name: &ChannelName) -> Result<(), Rejection> {
    let hub = &context.shared.hub;
    if !hub.has_place_for(name) {
        return Err(Rejection::Channels);
    }
    if hub
        .find(name)
        .is_some_and(|channel| !hub.inbox().has_room_for(&channel))
    {
        return Err(Rejection::Busy(INBOX_FULL.to_owned()));
    }
    Ok(())
}

/// A body that may come, as far as its head tells.
struct Announced<'a> {
    body: Body,
    /// Bytes it has at most.
    limit: usize,
    rates: &'a PublishRates,
    /// Its bytes have been counted.
    counted: bool,
}

impl<'a> Announced<'a> {
    /// Of one whose length is known, that decides.
    fn new(body: Body, limit: usize, rates: &'a PublishRates) -> Result<Self, Rejection> {
        let length = body.size_hint();
        if length.lower() > limit as u64 {
            return Err(Rejection::TooLarge(limit));
        }
        let counted = length.exact().is_some();
        if !rates.allows_bytes(length.lower() as usize) {
            return Err(TOO_MANY_BYTES);
        }
        Ok(Self {
            body,
            limit,
            rates,
            counted,
        })
    }

    /// The body, as far as it arrives in time and within its limits: a client sends at least
    /// [`LEAST_RATE`] on average.
    async fn whole(self, charge: &mut Charge) -> Result<Bytes, Rejection> {
        let Self {
            body,
            limit,
            rates,
            counted,
        } = self;
        let start = Instant::now();
        let mut body = Limited::new(body, limit);
        let mut whole = BytesMut::new();
        loop {
            let earned = Duration::from_secs_f64(whole.len() as f64 / LEAST_RATE as f64);
            let bytes = match timeout_at(start + BODY_PATIENCE + earned, body.frame()).await {
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
                    return Err(Rejection::TooLarge(limit));
                }
                Ok(Some(Err(_))) => {
                    return Err(Rejection::Unreadable("the body did not arrive whole"));
                }
                Err(_) => return Err(Rejection::Unreadable("the body did not arrive in time")),
            };
            if !counted && !rates.allows_bytes(bytes.len()) {
                return Err(TOO_MANY_BYTES);
            }
            whole.extend_from_slice(&bytes);
            charge.set(whole.capacity());
            if !charge.has_room() {
                return Err(Rejection::Memory);
            }
        }
    }
}

/// The kind that a client asks for, if it does.
fn kind(headers: &HeaderMap) -> Result<Option<Kind>, BadParameter> {
    match query::header(headers, KIND)?.map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(kind) if kind.eq_ignore_ascii_case(b"text") => Ok(Some(Kind::Text)),
        Some(kind) if kind.eq_ignore_ascii_case(b"binary") => Ok(Some(Kind::Binary)),
        Some(_) => Err(BadParameter {
            name: KIND,
            why: "it is text or binary",
        }),
    }
}

/// The kind of a message. Not by `Content-Type`: HTTP libraries choose one that has nothing to do
/// with the message, such as `application/octet-stream` for a string.
fn kind_of(body: &[u8], asked: Option<Kind>) -> Result<Kind, BadParameter> {
    match (asked, simdutf8::basic::from_utf8(body).is_ok()) {
        (Some(Kind::Text), false) => Err(BadParameter {
            name: KIND,
            why: "the body is not UTF-8, so it is no text",
        }),
        (Some(kind), _) => Ok(kind),
        (None, true) => Ok(Kind::Text),
        (None, false) => Ok(Kind::Binary),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, BadParameter> {
    let Some(key) = query::header(headers, KEY)? else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(BadParameter {
            name: KEY,
            why: "it has 1 to 256 characters of ASCII",
        }),
    }
}
