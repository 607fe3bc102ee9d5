//! Events of an open connection, and the notices about them that people read.

use tokio_tungstenite::tungstenite::Message;

use super::output::shown;

/// Characters of a message that a notice quotes.
const QUOTED: usize = 60;

/// Something that happened on an open connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message, a ping (already answered) or a pong.
    Received(Message),
    /// This many messages of the channel are missing here, if the number is known.
    Missing(Option<u64>),
    /// One of our messages is published.
    Acknowledged,
    /// One of our messages is not published: which, if that is known, and why.
    NotPublished {
        message: Option<Message>,
        why: String,
    },
    /// The connection was lost before this message was acknowledged, and the server cannot tell
    /// whether it was published.
    Doubtful(Message),
    /// Everything queued is written, so there is room again.
    Flushed,
}

impl Event {
    /// A notice for people, besides the messages themselves.
    pub(crate) fn notice(&self) -> Option<String> {
        match self {
            Self::Missing(count) => Some(missing(*count)),
            Self::NotPublished { message, why } => Some(not_published(message.as_ref(), why)),
            Self::Doubtful(message) => Some(doubtful(message)),
            Self::Received(_) | Self::Acknowledged | Self::Flushed => None,
        }
    }
}

fn missing(count: Option<u64>) -> String {
    match count {
        None => "some messages may be missing here".to_owned(),
        Some(1) => "1 message is missing here".to_owned(),
        Some(count) => format!("{count} messages are missing here"),
    }
}

fn not_published(message: Option<&Message>, why: &str) -> String {
    match message.and_then(quote) {
        Some(quote) => format!("not published: {quote}: {why}"),
        None => format!("not published: {why}"),
    }
}

fn doubtful(message: &Message) -> String {
    let quote = quote(message).unwrap_or_default();
    format!("perhaps not published: {quote}: the connection was lost before it was acknowledged")
}

/// The beginning of a message, enough to recognize it.
fn quote(message: &Message) -> Option<String> {
    let text = shown(message)?;
    let beginning = text.chars().take(QUOTED);
    let more = if text.chars().nth(QUOTED).is_some() {
        "…"
    } else {
        ""
    };
    // Without control characters, because this is printed.
    let beginning: String = beginning.flat_map(char::escape_debug).collect();
    Some(format!("\"{beginning}{more}\""))
}
