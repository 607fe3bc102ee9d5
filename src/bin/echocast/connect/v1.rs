//! The frames of the subprotocol `echocast.v1`, as a client reads and writes them. What they mean
//! for a conversation is `resume`'s.

use std::fmt;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use echocast::ws::handshake::VERSION;
pub(crate) use echocast::ws::v1::PROTOCOL;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

/// What a server says.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// Once, first. `id` is the newest of the channel, if the server keeps any.
    Welcome { id: Option<Id> },
    /// A message of the channel; one that did not come through the service has no id.
    Message { id: Option<Id>, message: Message },
    /// Messages are missing at this place; nobody may know how many.
    Gap { missed: Option<u64> },
    /// The connection is about to be closed: come back after this time.
    Drain { retry: Duration },
    /// The message said with this reference is the one with this id.
    Ack { reference: String, id: Option<Id> },
    /// Something was not published: why, and which if that is known.
    Error {
        words: String,
        reference: Option<String>,
    },
    /// A kind that later servers may have.
    Unknown,
}

/// `EPOCH-NUMBER`. Sent back as it came; only ids of one epoch can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id {
    text: String,
    /// Where the number begins, and the number, if it has that form.
    number: Option<(usize, u64)>,
}

/// Whether the server took the subprotocol and knows what that means: others echo any name they are
/// offered.
pub(crate) fn is_spoken(response: &Response) -> bool {
    let taken = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    taken.is_some_and(|taken| taken == PROTOCOL) && response.headers().contains_key(VERSION)
}

/// `None` for what no server of this protocol sends.
pub(crate) fn parse(text: &str) -> Option<Frame> {
    let Value::Object(fields) = serde_json::from_str(text).ok()? else {
        return None;
    };
    let string = |name: &str| fields.get(name).and_then(Value::as_str);
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    let id = || string("id").map(Id::new);
    Some(match string("event") {
        Some("welcome") => Frame::Welcome { id: id() },
        Some("gap") => Frame::Gap {
            missed: number("missed"),
        },
        Some("drain") => Frame::Drain {
            retry: Duration::from_millis(number("retry_ms")?),
        },
        Some(_) => Frame::Unknown,
        None => {
            if let Some(reference) = string("ack") {
                Frame::Ack {
                    reference: reference.to_owned(),
                    id: id(),
                }
            } else if let Some(words) = string("error") {
                Frame::Error {
                    words: words.to_owned(),
                    reference: string("ref").map(str::to_owned),
                }
            } else if let Some(data) = string("data") {
                Frame::Message {
                    id: id(),
                    message: Message::text(data),
                }
            } else if let Some(base64) = string("base64") {
                Frame::Message {
                    id: id(),
                    message: Message::binary(BASE64_STANDARD.decode(base64).ok()?),
                }
            } else {
                Frame::Unknown
            }
        }
    })
}

/// What a client says: the server answers with `reference`, and keeps one message of each `key`.
pub(crate) fn said(message: &Message, reference: &str, key: &str) -> Message {
    let frame = match message {
        Message::Binary(bytes) => {
            json!({"base64": BASE64_STANDARD.encode(bytes), "ref": reference, "key": key})
        }
        text => json!({"data": text.to_text().unwrap_or_default(), "ref": reference, "key": key}),
    };
    Message::text(frame.to_string())
}

impl Id {
    pub(crate) fn new(text: &str) -> Self {
        let number = text
            .rsplit_once('-')
            .and_then(|(epoch, number)| Some((epoch.len(), number.parse().ok()?)));
        Self {
            text: text.to_owned(),
            number,
        }
    }

    /// Whether it is the place of `other` or one before it, in the same epoch.
    pub(crate) fn is_at_or_before(&self, other: &Self) -> bool {
        self.comparable(other)
            .is_some_and(|(mine, others)| mine <= others)
    }

    /// Whether nothing can be between `other` and this one.
    pub(crate) fn is_next_after(&self, other: &Self) -> bool {
        // `0-0` is the place before a channel's first message, of whatever epoch.
        let first = other.text == "0-0" && self.number.is_some_and(|(_, number)| number == 1);
        first
            || self
                .comparable(other)
                .is_some_and(|(mine, others)| mine.checked_sub(others) == Some(1))
    }

    fn comparable(&self, other: &Self) -> Option<(u64, u64)> {
        let ((mine, my_number), (others, other_number)) = (self.number?, other.number?);
        (self.text[..mine] == other.text[..others]).then_some((my_number, other_number))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_specified() {
        let id = |text| Some(Id::new(text));
        let text = |data| Message::text(data);
        for (frame, meaning) in [
            (
                r#"{"event":"welcome","channel":"a","node":"1f","id":"e-9","recovered":true}"#,
                Frame::Welcome { id: id("e-9") },
            ),
            (
                r#"{"event":"welcome","channel":"a","node":"1f","id":null,"recovered":false}"#,
                Frame::Welcome { id: None },
            ),
            (
                r#"{"id":"e-10","data":"a\n\"b\" é"}"#,
                Frame::Message {
                    id: id("e-10"),
                    message: text("a\n\"b\" é"),
                },
            ),
            (
                r#"{"data":""}"#,
                Frame::Message {
                    id: None,
                    message: text(""),
                },
            ),
            (
                r#"{"id":"e-11","base64":"AAE="}"#,
                Frame::Message {
                    id: id("e-11"),
                    message: Message::binary(vec![0, 1]),
                },
            ),
            (
                r#"{"event":"gap","missed":12}"#,
                Frame::Gap { missed: Some(12) },
            ),
            (
                r#"{"event":"gap","missed":null}"#,
                Frame::Gap { missed: None },
            ),
            (
                r#"{"event":"drain","retry_ms":1830}"#,
                Frame::Drain {
                    retry: Duration::from_millis(1830),
                },
            ),
            (
                r#"{"ack":"7","id":"e-12"}"#,
                Frame::Ack {
                    reference: "7".into(),
                    id: id("e-12"),
                },
            ),
            (
                r#"{"error":"no","ref":null}"#,
                Frame::Error {
                    words: "no".into(),
                    reference: None,
                },
            ),
            (
                r#"{"error":"no","ref":"7"}"#,
                Frame::Error {
                    words: "no".into(),
                    reference: Some("7".into()),
                },
            ),
            (r#"{"event":"later"}"#, Frame::Unknown),
            (r#"{"more":1}"#, Frame::Unknown),
        ] {
            assert_eq!(parse(frame), Some(meaning), "{frame}");
        }
        for nonsense in [
            "hello",
            "3",
            r#"{"id":"e-1","base64":"%"}"#,
            r#"{"event":"drain"}"#,
        ] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_said_keeps_its_kind() {
        let said = |message| {
            said(&message, "1", "k-1")
                .into_text()
                .expect("frames are text")
        };
        let fields =
            |message| serde_json::from_str::<Value>(&said(message)).expect("frames are JSON");
        assert_eq!(
            fields(Message::text("a\"b")),
            json!({"data": "a\"b", "ref": "1", "key": "k-1"})
        );
        assert_eq!(
            fields(Message::binary(vec![0, 1])),
            json!({"base64": "AAE=", "ref": "1", "key": "k-1"})
        );
    }

    #[test]
    fn ids_of_one_epoch_are_compared_by_number() {
        let (nine, ten) = (Id::new("9f2c-9"), Id::new("9f2c-10"));
        assert!(
            nine.is_at_or_before(&ten)
                && nine.is_at_or_before(&nine)
                && !ten.is_at_or_before(&nine)
        );
        assert!(ten.is_next_after(&nine) && !nine.is_next_after(&ten) && !ten.is_next_after(&ten));
        assert!(
            !nine.is_at_or_before(&Id::new("7e57-10")) && !Id::new("7e57-10").is_next_after(&nine)
        );
        let most = Id::new("9f2c-18446744073709551615");
        assert!(
            ten.is_at_or_before(&most)
                && !most.is_at_or_before(&Id::new("9f2c-18446744073709551614"))
        );
        assert!(
            Id::new("9f2c-1").is_next_after(&Id::new("0-0")) && !ten.is_next_after(&Id::new("0-0"))
        );
        assert!(!Id::new("opaque").is_at_or_before(&Id::new("opaque")));
    }
}
