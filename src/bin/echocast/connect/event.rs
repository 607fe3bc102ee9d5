//! What an open connection tells the subcommands, and in which words people are told.

use tokio_tungstenite::tungstenite::Message;

use super::output::shown;

/// Characters of a message that could not be said.
const QUOTED: usize = 60;

/// What happened on an open connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message, a ping (already answered) or a pong.
    Heard(Message),
    /// Of the channel's messages so many are missing at this place, if that is known.
    Missing(Option<u64>),
    /// Something that was said is with the channel.
    Acknowledged,
    /// Something that was said is not, or not for sure: what, if that is known, and why.
    NotSaid {
        message: Option<Message>,
        why: String,
    },
    /// All that was said has been handed to the system; there is room again.
    Flushed,
}

impl Event {
    /// What people should be told besides the messages.
    pub(crate) fn words(&self) -> Option<String> {
        match self {
            Self::Missing(None) => Some("some messages may be missing here".to_owned()),
            Self::Missing(Some(1)) => Some("1 message is missing here".to_owned()),
            Self::Missing(Some(count)) => Some(format!("{count} messages are missing here")),
            Self::NotSaid { message, why } => Some(match message.as_ref().and_then(shown) {
                Some(text) => format!("not said: \"{}\": {why}", beginning(&text)),
                None => format!("not said: {why}"),
            }),
            Self::Heard(_) | Self::Acknowledged | Self::Flushed => None,
        }
    }
}

/// Enough of a text to know it again.
fn beginning(text: &str) -> String {
    let mut shortened: String = text
        .chars()
        .take(QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED).is_some() {
        shortened.push('…');
    }
    shortened
}
