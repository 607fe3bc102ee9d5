//! Publishing by a single request: its body is the message.

use std::error::Error;
use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::public::Public;
use crate::channel::ChannelName;
use crate::hub::Receipt;
use crate::message::Kind;
use crate::telemetry;
use crate::ws::handshake::Refusal;
use crate::ws::v1::MAX_KEY;

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long the broker may take to hold a message before its publisher is told that nobody knows.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// The header that gives a message its key.
const KEY: &str = "idempotency-key";

/// The header that names the trace it belongs to.
const TRACEPARENT: &str = "traceparent";

pub(super) async fn publish(public: &Public, name: &ChannelName, request: Request) -> Result<Response, Refusal> {
    public.door.admit(request.headers())?;
    let shared = &public.door.shared;
    let (parts, body) = request.into_parts();
    let key = key(&parts.headers)?;
    let limit = shared.limits.max_message;
    let body = match timeout(BODY_PATIENCE, to_bytes(body, limit)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) => {
            return Err(Refusal::TooLarge(limit));
        }
        Ok(Err(_)) => return Err(Refusal::Unreadable("the body did not arrive whole")),
        Err(_) => return Err(Refusal::Unreadable("the body did not arrive in time")),
    };
    let kind =
        if is_octets(&parts.headers) || simdutf8::basic::from_utf8(&body).is_err() { Kind::Binary } else { Kind::Text };
    if !public.status.is_up() {
        return Err(Refusal::BrokerAway);
    }
    if !shared.hub.inbox().has_room() {
        return Err(Refusal::Busy("too much is waiting to be published".to_owned()));
    }

    if shared.log_messages {
        telemetry::log_message(name.as_str(), kind, &body);
    }
    shared.metrics.http.received_bytes.inc_by(body.len() as u64);
    shared.metrics.http.received.inc();
    let visit = shared.hub.visit(name);
    let (answers, mut answered) = mpsc::unbounded_channel();
    let receipt = Receipt { reference: String::new(), answers };
    let trace = parts.headers.get(TRACEPARENT).and_then(|trace| trace.to_str().ok());
    let publication = visit.channel().publish(shared.hub.inbox());
    publication.continuing(telemetry::continued(trace)).push_with(kind, &body, 0, key, Some(receipt));
    match timeout(BROKER_PATIENCE, answered.recv()).await {
        Ok(Some(answer)) => match answer.outcome {
            Ok(id) => Ok(Json(json!({ "id": id.map(|id| id.to_string()) })).into_response()),
            Err(why) => Err(Refusal::Busy(why.0)),
        },
        Ok(None) | Err(_) => Err(Refusal::Unconfirmed),
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
