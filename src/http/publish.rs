//! Publishing by a single request: its body is the message.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Caller;
use super::public::Public;
use super::stream::LEAST_RATE;
use crate::budget::{Charge, Part};
use crate::channel::ChannelName;
use crate::hub::{Receipt, Unpublished};
use crate::message::Kind;
use crate::telemetry;
use crate::ws::handshake::Refusal;
use crate::ws::rate::PublishRates;
use crate::ws::v1::MAX_KEY;

/// How long a body may take to arrive, beside what its size allows.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long the broker may take to hold a message before its publisher is told that nobody knows.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// More than `--byte-rate`.
const TOO_MANY_BYTES: Refusal = Refusal::Rate("too many bytes a second on one connection");

/// Why a message is refused that the inbox has no room for.
const INBOX_FULL: &str = "too much is waiting to be published";

/// The header that gives a message its key.
const KEY: &str = "idempotency-key";

/// The header that names the trace it belongs to.
const TRACEPARENT: &str = "traceparent";

pub(super) async fn publish(
    public: &Public,
    name: &ChannelName,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    public.door.admit(request.method(), request.headers())?;
    let shared = &public.door.shared;
    let (parts, body) = request.into_parts();
    let key = key(&parts.headers)?;
    if !caller.publish_rates().allows_message() {
        return Err(Refusal::Rate("too many messages a second on one connection"));
    }
    // All that needs no body comes before it: a client that waits with it (`Expect: 100-continue`) need not send it then.
    let body = Announced::new(body, shared.limits.max_message, caller.publish_rates())?;
    check_node(public)?;
    if !shared.hub.has_place_for(name) {
        return Err(Refusal::Channels);
    }
    if shared.hub.find(name).is_some_and(|channel| !shared.hub.inbox().has_room_for(&channel)) {
        return Err(Refusal::Busy(INBOX_FULL.to_owned()));
    }
    // Counted while it arrives, and until the inbox has it.
    let mut charge = shared.hub.budget().charge(Part::Input, 0);
    let body = body.whole(&mut charge).await?;
    let kind =
        if is_octets(&parts.headers) || simdutf8::basic::from_utf8(&body).is_err() { Kind::Binary } else { Kind::Text };
    // Again: a body may take a while. And first, because a channel that comes to be may take the place of another's history.
    check_node(public)?;
    let visit = shared.hub.visit(name)?;
    if !shared.hub.inbox().has_room_for(visit.channel()) {
        return Err(Refusal::Busy(INBOX_FULL.to_owned()));
    }

    if shared.log_messages {
        telemetry::log_message(name.as_str(), kind, &body);
    }
    shared.metrics.http.received_bytes.inc_by(body.len() as u64);
    shared.metrics.http.received.inc();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let receipt = Receipt { reference: String::new(), answers };
    let trace = parts.headers.get(TRACEPARENT).and_then(|trace| trace.to_str().ok());
    let publication = visit.channel().publish(shared.hub.inbox());
    publication.continuing(telemetry::continued(trace)).push_with(kind, &body, 0, key, Some(receipt));
    drop((body, charge));
    match timeout(BROKER_PATIENCE, answered.recv()).await {
        Ok(Some(answer)) => match answer.outcome {
            Ok(id) => Ok(Json(json!({ "id": id.map(|id| id.to_string()) })).into_response()),
            Err(Unpublished::Refused(why)) => Err(Refusal::Busy(why)),
            Err(Unpublished::KeyTaken) => Err(Refusal::KeyTaken),
        },
        Ok(None) | Err(_) => Err(Refusal::Unconfirmed),
    }
}

/// Whether this node could publish a message now.
fn check_node(public: &Public) -> Result<(), Refusal> {
    let hub = &public.door.shared.hub;
    if !public.status.is_up() {
        return Err(Refusal::BrokerAway);
    }
    if !hub.budget().has_room() {
        hub.make_room();
        return Err(Refusal::Memory);
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
    fn new(body: Body, limit: usize, rates: &'a PublishRates) -> Result<Self, Refusal> {
        let length = body.size_hint();
        if length.lower() > limit as u64 {
            return Err(Refusal::TooLarge(limit));
        }
        let counted = length.exact().is_some();
        if !rates.allows_bytes(length.lower() as usize) {
            return Err(TOO_MANY_BYTES);
        }
        Ok(Self { body, limit, rates, counted })
    }

    /// The body, as far as it arrives in time and within its limits: a client sends at least [`LEAST_RATE`] on average.
    async fn whole(self, charge: &mut Charge) -> Result<Bytes, Refusal> {
        let Self { body, limit, rates, counted } = self;
        let start = Instant::now();
        let mut body = Limited::new(body, limit);
        let mut whole = BytesMut::new();
        loop {
            let earned = Duration::from_secs_f64(whole.len() as f64 / LEAST_RATE as f64);
            let bytes = match timeout_at(start + BODY_PATIENCE + earned, body.frame()).await {
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge(limit)),
                Ok(Some(Err(_))) => return Err(Refusal::Unreadable("the body did not arrive whole")),
                Err(_) => return Err(Refusal::Unreadable("the body did not arrive in time")),
            };
            if !counted && !rates.allows_bytes(bytes.len()) {
                return Err(TOO_MANY_BYTES);
            }
            whole.extend_from_slice(&bytes);
            charge.set(whole.capacity());
            if !charge.has_room() {
                return Err(Refusal::Memory);
            }
        }
    }
}

fn is_octets(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/octet-stream"))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get(KEY) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::Unreadable("an Idempotency-Key has 1 to 256 characters of ASCII")),
    }
}
