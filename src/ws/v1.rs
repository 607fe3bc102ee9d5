//! The format `echocast.v1`: what its clients say and what they are told beside messages. Pure; how
//! messages look to them is [`crate::message::Format::V1`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::hub::{Answer, Subscription};
use crate::message::Kind;

/// What clients offer.
pub const PROTOCOL: &str = "echocast.v1";

/// The longest key, in bytes.
pub const MAX_KEY: usize = 256;

/// The longest reference, in bytes: answers repeat it, so they are memory, too.
pub const MAX_REFERENCE: usize = 256;

/// How many bytes of JSON a message of `bytes` payload may take: everything escaped as `\u001b` is,
/// and a reference and a key.
pub fn max_frame(bytes: usize) -> usize {
    bytes
        .saturating_mul(6)
        .saturating_add(6 * (MAX_KEY + MAX_REFERENCE) + 1024)
}

/// A message that a client says.
#[derive(Debug)]
pub struct Said {
    /// How it was said.
    pub kind: Kind,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// What its acknowledgement is to be called, if one is wanted.
    pub reference: Option<String>,
    /// Under which it is kept once.
    pub key: Option<String>,
}

/// Why what a client said is no message.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// In words.
    pub why: String,
    /// What it called the message, if that could be read.
    pub reference: Option<String>,
}

#[derive(Deserialize)]
struct Frame {
    data: Option<String>,
    base64: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    key: Option<String>,
}

/// Reads what a client says.
///
/// # Errors
/// If it is no message, or longer than `max_message`.
pub fn read(kind: Kind, frame: &[u8], max_message: usize) -> Result<Said, Unreadable> {
    let unreadable = |why: String| Unreadable {
        why,
        reference: None,
    };
    if kind == Kind::Binary {
        return Err(unreadable(
            "binary frames are not part of echocast.v1: say {\"base64\": …}".to_owned(),
        ));
    }
    let Frame {
        data,
        base64,
        reference,
        key,
    } = serde_json::from_slice(frame)
        .map_err(|error| unreadable(format!("not a message in JSON: {error}")))?;
    if reference
        .as_ref()
        .is_some_and(|reference| reference.len() > MAX_REFERENCE)
    {
        return Err(unreadable(format!(
            "a ref has at most {MAX_REFERENCE} bytes"
        )));
    }
    let payload = match (data, base64) {
        (Some(text), None) => Ok((Kind::Text, text.into_bytes())),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok((Kind::Binary, bytes)),
            Err(error) => Err(format!("base64: {error}")),
        },
        _ => Err("a message has either data or base64".to_owned()),
    };
    let checked = payload.and_then(|(kind, payload)| match &key {
        _ if payload.len() > max_message => {
            Err(format!("message is longer than {max_message} bytes"))
        }
        Some(key) if key.is_empty() || key.len() > MAX_KEY => {
            Err(format!("a key has 1 to {MAX_KEY} bytes"))
        }
        _ => Ok((kind, payload)),
    });
    match checked {
        Ok((kind, payload)) => Ok(Said {
            kind,
            payload,
            reference,
            key,
        }),
        Err(why) => Err(Unreadable { why, reference }),
    }
}

/// What a client is told first.
pub fn welcome(subscription: &Subscription, node: u64) -> String {
    let event = json!({
        "event": "welcome",
        "channel": subscription.channel().name.as_str(),
        "node": format!("{node:016x}"),
        "id": subscription.newest.map(|id| id.to_string()),
        "recovered": subscription.recovered,
    });
    event.to_string()
}

/// What became of a message.
pub fn answer(Answer { reference, outcome }: Answer) -> String {
    match outcome {
        Ok(id) => json!({ "ack": reference, "id": id.map(|id| id.to_string()) }).to_string(),
        Err(why) => error(&why.to_string(), Some(&reference)),
    }
}

/// What was said cannot be published.
pub fn error(why: &str, reference: Option<&str>) -> String {
    json!({ "error": why, "ref": reference }).to_string()
}

/// Messages are missing here.
pub fn gap(missed: Option<u64>) -> Vec<u8> {
    json!({ "event": "gap", "missed": missed })
        .to_string()
        .into_bytes()
}

/// A planned end is near.
pub fn drain(retry_ms: u64) -> String {
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
