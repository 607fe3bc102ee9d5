//! What a request asks of its subscription. Any query is accepted: what we do not understand is somebody else's business.

use axum::http::HeaderMap;
use url::form_urlencoded;

use crate::feed::Start;
use crate::message::MessageId;

/// The header in which event streams say what they heard last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Where to begin: after `Last-Event-ID`, `lastEventId` or `since`, with the newest `last`, or with the newest.
/// A client that reconnects keeps its first `since` in the URL, so the header and `lastEventId` win over it.
pub fn start(query: &str, headers: &HeaderMap) -> Start {
    let id = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned).filter(|id| !id.is_empty());
    let named = |key| value(query, key).filter(|id| !id.is_empty());
    if let Some(id) = id.or_else(|| named("lastEventId")).or_else(|| named("since")) {
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
