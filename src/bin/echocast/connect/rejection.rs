//! Why an attempt to connect failed, in words, and whether to try again.

use std::fmt;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::Response;
use tokio_tungstenite::tungstenite::http::header::TRANSFER_ENCODING;

use super::close::describe;

/// A server gives its reason in one line. Longer text is cut here, in characters.
const LONGEST_REASON: usize = 200;

/// Why one attempt did not give a connection.
pub(crate) enum DialError {
    /// The server answered, and would give the same answer again.
    Rejected(String),
    /// It may work later.
    Failed(String),
}

impl DialError {
    pub(super) fn no_answer(within: Duration) -> Self {
        Self::Failed(format!("no answer within {} s", within.as_secs()))
    }
}

impl From<Error> for DialError {
    fn from(error: Error) -> Self {
        let Error::Http(response) = error else {
            return Self::Failed(format!("cannot connect: {}", describe(&error)));
        };
        let text = rejection(&response);
        match response.status().as_u16() {
            // The server, or a proxy in front of it, is busy or away for a while.
            429 | 502 | 503 | 504 => Self::Failed(text),
            _ => Self::Rejected(text),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Rejected(reason) | Self::Failed(reason)) = self;
        f.write_str(reason)
    }
}

/// Whether the server chose none of the subprotocols it was offered. That is its right, but the
/// library reports it as an error.
pub(super) fn took_no_subprotocol(error: &Error) -> bool {
    matches!(
        error,
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol
        ))
    )
}

/// The status, and the server's reason if it gave one.
fn rejection(response: &Response<Option<Vec<u8>>>) -> String {
    let status = format!("the server answered {}", response.status());
    match reason(response) {
        Some(reason) => format!("{status}: {reason}"),
        None => status,
    }
}

/// The first line of the body, if it can be shown as it is.
fn reason(response: &Response<Option<Vec<u8>>>) -> Option<String> {
    // The library does not decode a chunked body.
    if response.headers().contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let body = response.body().as_deref().unwrap_or_default();
    first_line(&String::from_utf8_lossy(body))
}

fn first_line(body: &str) -> Option<String> {
    let line = body.lines().next()?.trim();
    is_plain(line).then(|| line.chars().take(LONGEST_REASON).collect())
}

/// Not empty, not HTML, and harmless to a terminal.
fn is_plain(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('<') && !line.chars().any(char::is_control)
}
