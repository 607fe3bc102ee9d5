//! How connections end: close codes, their meaning in words, and errors without a close.

use std::fmt;

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The longest reason of a close frame, in bytes: it has to fit into a control frame.
const LONGEST_REASON: usize = 123;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// By a close handshake, with the server's code and reason if it gave any.
    Closed(Option<CloseFrame>),
    /// Without a close handshake: why.
    Lost(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "connection lost: {why}"),
            Self::Closed(frame) => write!(f, "connection closed{}", code(frame.as_ref())),
        }
    }
}

fn code(frame: Option<&CloseFrame>) -> String {
    match frame {
        Some(frame) => format!(": {}", in_words(frame)),
        None => " without a code".to_owned(),
    }
}

fn in_words(frame: &CloseFrame) -> String {
    let code = u16::from(frame.code);
    let meaning = meaning(code);
    if frame.reason.is_empty() {
        return format!("{code} {meaning}");
    }
    // The reason comes from the server, so it must not control the terminal.
    format!("{code} {meaning} ({})", frame.reason.escape_debug())
}

fn meaning(code: u16) -> &'static str {
    match code {
        1000 => "normal",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "kind of data not accepted",
        1007 => "text that is not UTF-8",
        1008 => "against the server's policy",
        1009 => "message too big",
        1010 => "extension missing",
        1011 => "server error",
        1012 => "server restarting, come back",
        1013 => "too slow or too busy, come back",
        1014 => "bad gateway",
        3000..=3999 => "registered code",
        4000..=4999 => "application code",
        _ => "unknown code",
    }
}

/// The cause of an error, without the layers it came through.
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "the server ended it without a close".to_owned()
        }
        error => error.to_string(),
    }
}

/// Checks what RFC 6455 lets an endpoint send: a code that exists, and a reason that fits.
pub(crate) fn check_close_code(code: u16, reason: &str) -> Result<(), String> {
    let length = reason.len();
    if !can_be_sent(code) {
        let allowed = "use 1000-1003, 1007-1014 or 3000-4999";
        return Err(format!("close code {code} cannot be sent: {allowed}"));
    }
    if length > LONGEST_REASON {
        let problem = format!("the reason is {length} bytes long");
        return Err(format!("{problem}, a close holds at most {LONGEST_REASON}"));
    }
    Ok(())
}

fn can_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
