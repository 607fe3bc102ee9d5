//! What a request asks of its subscription. Any query is accepted: what we do not understand is somebody else's business.

use axum::http::HeaderMap;
use url::form_urlencoded;

use crate::feed::Start;
use crate::message::MessageId;

/// The header in which event streams say what they heard last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Where to begin: after `Last-Event-ID`, after `since`, with the newest `last`, or with the newest.
pub fn start(query: &str, headers: &HeaderMap) -> Start {
    let last_event = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    if let Some(id) = last_event.map(str::to_owned).or_else(|| value(query, "since")) {
        // One that we did not give is of a history that we do not have.
        return Start::After(id.parse().unwrap_or(MessageId { epoch: u64::MAX, offset: 0 }));
    }
    value(query, "last").and_then(|count| count.parse().ok()).map_or(Start::Newest, Start::Last)
}

/// Whether this connection hears its own messages.
pub fn echo(query: &str) -> bool {
    value(query, "echo").is_none_or(|echo| echo != "false")
}

fn value(query: &str, key: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}
