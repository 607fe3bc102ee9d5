//! A channel as data, at one moment: the JSON view.

mod list;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use self::list::{ANSWER_BYTES, MessageList};
use super::context::Context;
use crate::budget::{Charge, Part};
use crate::channel::ChannelName;
use crate::client::query;
use crate::client::rejection::Rejection;
use crate::feed::Start;
use crate::hub::{Hub, Subscription};

pub(super) async fn snapshot(
    context: &Context,
    name: &ChannelName,
    request: Request,
) -> Result<Response, Rejection> {
    context.admit(&Method::GET, request.headers())?;
    let query = request.uri().query().unwrap_or_default();
    let start = query::subscribe_options(query, request.headers())?.start;
    let hub = &context.shared.hub;
    // Before this request joins: it is no subscriber.
    let subscribers = hub.subscribers(name);
    let wants_messages = start != Start::Newest;
    let charge = reserve(hub, wants_messages)?;

    let subscription = hub.join_as_subscriber(name)?.subscribe(start).await?;
    let mut answer = json!({
        "channel": name.as_str(),
        "subscribers": subscribers,
        "id": subscription.newest.map(|id| id.to_string()),
    });
    let messages = if wants_messages {
        Some(messages(context, subscription, &mut answer).await?)
    } else {
        None
    };
    let body = body(&answer, messages.as_deref());
    let sent_bytes = &context.shared.metrics.http.sent_bytes;
    sent_bytes.inc_by(body.len() as u64);
    Ok(respond(body, charge))
}

/// Counts the answer in the memory budget before it is collected, because many answers may be
/// collected at the same time.
fn reserve(hub: &Hub, wants_messages: bool) -> Result<Charge, Rejection> {
    let reserved = if wants_messages { ANSWER_BYTES } else { 0 };
    let charge = hub.budget().charge(Part::Answers, reserved);
    // Answers that clients read slowly must not take the memory of messages.
    if !hub.budget().has_room() || hub.budget().is_crowded(Part::Answers) {
        hub.make_room();
        return Err(Rejection::Memory);
    }
    Ok(charge)
}

/// Collects the messages that a client asks for, and adds to the answer how complete they are.
async fn messages(
    context: &Context,
    subscription: Subscription,
    answer: &mut Value,
) -> Result<Vec<u8>, Rejection> {
    answer["recovered"] = subscription.recovered.into();
    let list = MessageList::collect(subscription, &context.collecting).await?;
    answer["missed"] = list.missed.count().map_or(Value::Null, Value::from);
    answer["more"] = (list.is_full() || list.has_lagged).into();
    let delivered = &context.shared.metrics.http.delivered;
    delivered.inc_by(list.messages);
    Ok(list.json)
}

/// The answer as JSON. Messages are inserted as they are, because they are JSON already.
fn body(answer: &Value, messages: Option<&[u8]>) -> Vec<u8> {
    let mut body = answer.to_string().into_bytes();
    if let Some(messages) = messages {
        // The object is opened again for one more member.
        body.pop();
        body.reserve_exact(messages.len() + 16);
        body.extend_from_slice(b",\"messages\":[");
        body.extend_from_slice(messages);
        body.extend_from_slice(b"]}");
    }
    body
}

fn respond(body: Vec<u8>, mut charge: Charge) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ];
    charge.set(body.capacity());
    let body = ChargedBody {
        body,
        _charge: charge,
    };
    (headers, Body::from(Bytes::from_owner(body))).into_response()
}

/// The body of an answer. It counts in the memory budget until it is written.
struct ChargedBody {
    body: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for ChargedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}
