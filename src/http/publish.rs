//! Publishing by a single request: its body is the message.

mod body;
mod options;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::body::AnnouncedBody;
use self::options::PublishOptions;
use super::context::Context;
use crate::budget::Part;
use crate::channel::ChannelName;
use crate::client::caller::Caller;
use crate::client::query;
use crate::client::rejection::Rejection;
use crate::hub::{Answer, Channel, PublishError, Receipt};
use crate::message::Kind;
use crate::telemetry;

/// How long the broker may take to acknowledge a message.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// Why a message is rejected that the inbox has no room for.
const INBOX_FULL: &str = "too much is waiting to be published";

/// A message that has arrived whole.
struct Message<'a> {
    kind: Kind,
    body: Bytes,
    options: PublishOptions<'a>,
}

pub(super) async fn publish(
    context: &Context,
    name: &ChannelName,
    caller: &Caller,
    request: Request,
) -> Result<Response, Rejection> {
    context.admit(request.method(), request.headers())?;
    let (parts, body) = request.into_parts();
    let options = read_options(&parts)?;
    if !caller.publish_rates().allows_message() {
        return Err(Rejection::Rate(
            "too many messages a second on one connection",
        ));
    }

    // Every check that needs no body comes before it. A client that waits to be asked for its body
    // (`Expect: 100-continue`) need not send it then.
    let shared = &context.shared;
    let largest = shared.limits.max_message;
    let body = AnnouncedBody::new(body, largest, caller.publish_rates())?;
    check_node(context)?;
    check_channel(context, name)?;

    // The body counts in the memory budget while it arrives, and until the inbox has it.
    let mut charge = shared.hub.budget().charge(Part::Input, 0);
    let body = body.read(&mut charge).await?;
    let kind = options.kind_of(&body)?;

    // The body may have taken a while. The node is checked before a channel is made, because a new
    // channel may replace the history of another.
    check_node(context)?;
    let publisher = shared.hub.join_as_publisher(name)?;
    let channel = publisher.channel();
    if !shared.hub.inbox().has_room_for(channel) {
        return Err(Rejection::Busy(INBOX_FULL.to_owned()));
    }
    let mut answered = push(
        context,
        name,
        channel,
        Message {
            kind,
            body,
            options,
        },
    );
    drop(charge);

    let answer = timeout(BROKER_PATIENCE, answered.recv()).await;
    respond(answer.unwrap_or_default())
}

fn read_options(parts: &Parts) -> Result<PublishOptions<'_>, Rejection> {
    // Options of a subscription mean nothing here. But all requests have the same address, so a
    // value that is wrong in one is wrong in all.
    query::subscribe_options(parts.uri.query().unwrap_or_default(), &parts.headers)?;
    Ok(PublishOptions::read(&parts.headers)?)
}

/// Checks that this node could publish a message now.
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

/// Checks that this channel could take a message now, without making the channel.
fn check_channel(context: &Context, name: &ChannelName) -> Result<(), Rejection> {
    let hub = &context.shared.hub;
    if !hub.has_place_for(name) {
        return Err(Rejection::Channels);
    }
    let is_full = |channel: Arc<Channel>| !hub.inbox().has_room_for(&channel);
    if hub.find(name).is_some_and(is_full) {
        return Err(Rejection::Busy(INBOX_FULL.to_owned()));
    }
    Ok(())
}

/// Gives the message to the inbox. The receiver gets the broker's answer.
fn push(
    context: &Context,
    name: &ChannelName,
    channel: &Arc<Channel>,
    message: Message<'_>,
) -> mpsc::UnboundedReceiver<Answer> {
    let shared = &context.shared;
    let Message {
        kind,
        body,
        options,
    } = message;
    if shared.log_messages {
        telemetry::log_message(name.as_str(), kind, &body);
    }
    shared.metrics.http.received_bytes.inc_by(body.len() as u64);
    shared.metrics.http.received.inc();
    let (answers, answered) = mpsc::unbounded_channel();
    let receipt = Receipt {
        reference: String::new(),
        answers,
    };
    // A POST receives nothing, so it has no messages of its own to leave out.
    let no_sender = 0;
    channel
        .publish(shared.hub.inbox())
        .continuing(telemetry::continued(options.traceparent))
        .push_with(kind, &body, no_sender, options.key, Some(receipt));
    answered
}

/// Answers the publisher. Without an answer of the broker, nobody knows whether it was published.
fn respond(answer: Option<Answer>) -> Result<Response, Rejection> {
    let answer = answer.ok_or(Rejection::Unconfirmed)?;
    match answer.outcome {
        Ok(id) => Ok(Json(json!({ "id": id.map(|id| id.to_string()) })).into_response()),
        Err(PublishError::Rejected(why)) => Err(Rejection::Busy(why)),
        Err(PublishError::KeyTaken) => Err(Rejection::KeyTaken),
    }
}
