//! The format `echocast.v1`: the frames that its clients send, and those they receive beside
//! messages. Pure. How messages look is [`crate::message::Shape::V1`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::hub::{Answer, Subscription};
use crate::message::Kind;

/// The subprotocol that clients offer.
pub const PROTOCOL: &str = "echocast.v1";

/// The longest key, in bytes.
pub(crate) const MAX_KEY: usize = 256;

/// The longest reference, in bytes. Answers repeat it, so it takes memory until they are written.
pub(crate) const MAX_REFERENCE: usize = 256;

/// The longest frame of a message with `bytes` payload: every byte escaped as in `\u001b`, and a
/// reference and a key.
pub(crate) fn max_frame(bytes: usize) -> usize {
    bytes
        .saturating_mul(6)
        .saturating_add(6 * (MAX_KEY + MAX_REFERENCE) + 1024)
}

/// A message that a client publishes.
#[derive(Debug)]
pub(crate) struct Publish {
    /// Text or binary.
    pub(crate) kind: Kind,
    /// Its bytes.
    pub(crate) payload: Vec<u8>,
    /// The name that the client gives its acknowledgement, if it wants one.
    pub(crate) reference: Option<String>,
    /// Messages of the same key are stored once.
    pub(crate) key: Option<String>,
}

/// Why a frame is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// In words.
    pub(crate) why: String,
    /// The client's reference, if that could be read.
    pub(crate) reference: Option<String>,
}

#[derive(Deserialize)]
struct PublishFrame {
    data: Option<String>,
    base64: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    key: Option<String>,
}

/// Reads a client's frame.
///
/// # Errors
/// If it is no message, or longer than `max_message`.
pub(crate) fn read(kind: Kind, frame: &[u8], max_message: usize) -> Result<Publish, Unreadable> {
    let PublishFrame {
        data,
        base64,
        reference,
        key,
    } = parse(kind, frame).map_err(|why| Unreadable {
        why,
        reference: None,
    })?;
    // From here on errors can name the client's reference.
    let checked = payload(data, base64, max_message)
        .and_then(|payload| check_key(key.as_deref()).map(|()| payload));
    match checked {
        Ok((kind, payload)) => Ok(Publish {
            kind,
            payload,
            reference,
            key,
        }),
        Err(why) => Err(Unreadable { why, reference }),
    }
}

/// The JSON of a frame. Errors here have no reference, because it could not be read or is too long
/// to be repeated.
fn parse(kind: Kind, frame: &[u8]) -> Result<PublishFrame, String> {
    // A client that sends binary frames has not understood the format, so it is not guessed at.
    if kind == Kind::Binary {
        return Err("binary frames are not part of echocast.v1: send {\"base64\": …}".to_owned());
    }
    let parsed: PublishFrame =
        serde_json::from_slice(frame).map_err(|error| format!("not a message in JSON: {error}"))?;
    let reference = parsed.reference.as_ref().map_or(0, String::len);
    if reference > MAX_REFERENCE {
        return Err(format!("a ref has at most {MAX_REFERENCE} bytes"));
    }
    Ok(parsed)
}

fn payload(
    data: Option<String>,
    base64: Option<String>,
    max_message: usize,
) -> Result<(Kind, Vec<u8>), String> {
    let (kind, payload) = match (data, base64) {
        (Some(text), None) => (Kind::Text, text.into_bytes()),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text);
            (
                Kind::Binary,
                bytes.map_err(|error| format!("base64: {error}"))?,
            )
        }
        _ => return Err("a message has either data or base64".to_owned()),
    };
    if payload.len() > max_message {
        return Err(format!("message is longer than {max_message} bytes"));
    }
    Ok((kind, payload))
}

fn check_key(key: Option<&str>) -> Result<(), String> {
    match key {
        Some(key) if key.is_empty() || key.len() > MAX_KEY => {
            Err(format!("a key has 1 to {MAX_KEY} bytes"))
        }
        _ => Ok(()),
    }
}

/// The first frame that a client receives.
pub(crate) fn welcome(subscription: &Subscription, node: u64) -> String {
    let event = json!({
        "event": "welcome",
        "channel": subscription.channel().name.as_str(),
        "node": format!("{node:016x}"),
        "id": subscription.newest.map(|id| id.to_string()),
        "recovered": subscription.recovered,
    });
    event.to_string()
}

/// The acknowledgement of a message, or why it was not published.
pub(crate) fn answer(Answer { reference, outcome }: Answer) -> String {
    match outcome {
        Ok(id) => json!({ "ack": reference, "id": id.map(|id| id.to_string()) }).to_string(),
        Err(why) => error(&why.to_string(), Some(&reference)),
    }
}

/// A frame of the client was not published.
pub(crate) fn error(why: &str, reference: Option<&str>) -> String {
    json!({ "error": why, "ref": reference }).to_string()
}

/// The node drains. The client should come back after so many milliseconds.
pub(crate) fn drain(retry_ms: u64) -> String {
    json!({ "event": "drain", "retry_ms": retry_ms }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (Kind, Vec<u8>, Option<String>, Option<String>);

    fn said(text: &str) -> Result<Read, Unreadable> {
        read(Kind::Text, text.as_bytes(), 10)
            .map(|said| (said.kind, said.payload, said.reference, said.key))
    }

    #[test]
    fn messages_are_text_or_base64_with_a_reference_and_a_key() {
        assert_eq!(
            said(r#"{"data":"h\ni","more":1}"#),
            Ok((Kind::Text, b"h\ni".into(), None, None))
        );
        let all = said(r#"{"base64":"AP8=","ref":"1","key":"k"}"#);
        assert_eq!(
            all,
            Ok((
                Kind::Binary,
                vec![0, 255],
                Some("1".into()),
                Some("k".into())
            ))
        );
    }

    #[test]
    fn what_is_no_message_is_named_with_its_reference() {
        for (text, why, reference) in [
            ("hello", "not a message in JSON", None),
            (r#"{"ref":"1"}"#, "either data or base64", Some("1")),
            (
                r#"{"data":"a","base64":"","ref":"2"}"#,
                "either data or base64",
                Some("2"),
            ),
            (r#"{"base64":"*","ref":"3"}"#, "base64: ", Some("3")),
            (
                r#"{"data":"12345678901","ref":"4"}"#,
                "longer than 10 bytes",
                Some("4"),
            ),
            (
                r#"{"data":"a","key":"","ref":"5"}"#,
                "1 to 256 bytes",
                Some("5"),
            ),
        ] {
            let error = said(text).expect_err(text);
            assert!(error.why.contains(why), "{text}: {}", error.why);
            assert_eq!(error.reference.as_deref(), reference, "{text}");
        }
        assert!(read(Kind::Binary, b"{}", 10).is_err());
        let reference = "r".repeat(MAX_REFERENCE);
        assert!(said(&format!(r#"{{"data":"a","ref":"{reference}"}}"#)).is_ok());
        let error = said(&format!(r#"{{"data":"a","ref":"{reference}r"}}"#)).expect_err("longer");
        assert_eq!(
            (&*error.why, error.reference),
            ("a ref has at most 256 bytes", None)
        );
    }
}
