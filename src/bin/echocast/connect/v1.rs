//! The frames of the subprotocol `echocast.v1`, as a client reads and writes them. What follows
//! from them is decided by `resume`.

use std::fmt;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
pub(crate) use echocast::V1_PROTOCOL as PROTOCOL;
use echocast::VERSION_HEADER;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// The first frame, once. `id` is the newest message of the channel, if the server keeps a
    /// history.
    Welcome { id: Option<Id> },
    /// A message of the channel. One that did not come through the service has no id.
    Message { id: Option<Id>, message: Message },
    /// Messages are missing here, and perhaps it is not known how many.
    Gap { missed: Option<u64> },
    /// The server will close the connection. Reconnect after this time.
    Drain { retry: Duration },
    /// The message with this reference is published, with this id.
    Ack { reference: String, id: Option<Id> },
    /// A message was not published: why, and which one if that is known.
    Error {
        why: String,
        reference: Option<String>,
    },
    /// A kind of frame that later servers may send.
    Unknown,
}

/// `EPOCH-OFFSET`. It is sent back as it came. Only ids of one epoch can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id {
    text: String,
    /// `None` if the text does not have that form.
    parts: Option<Parts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    /// Bytes of the epoch, at the beginning of the text.
    epoch: usize,
    offset: u64,
}

/// Whether the server took the subprotocol and knows its meaning. Other servers accept any name
/// that they are offered.
pub(crate) fn is_spoken(response: &Response) -> bool {
    let taken = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    taken.is_some_and(|taken| taken == PROTOCOL) && response.headers().contains_key(VERSION_HEADER)
}

/// `None` for a text that is no frame of this protocol.
pub(crate) fn parse(text: &str) -> Option<Frame> {
    let Value::Object(fields) = serde_json::from_str(text).ok()? else {
        return None;
    };
    let fields = Fields(fields);
    match fields.text("event") {
        Some(event) => fields.event(event),
        None => fields.message_or_answer(),
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    fn id(&self) -> Option<Id> {
        self.text("id").map(Id::new)
    }

    fn event(&self, event: &str) -> Option<Frame> {
        Some(match event {
            "welcome" => Frame::Welcome { id: self.id() },
            // Null if the server does not know how many.
            "gap" => Frame::Gap {
                missed: self.number("missed"),
            },
            "drain" => Frame::Drain {
                retry: Duration::from_millis(self.number("retry_ms")?),
            },
            _ => Frame::Unknown,
        })
    }

    /// Frames without `event` are told apart by the field that only they have.
    fn message_or_answer(&self) -> Option<Frame> {
        if let Some(reference) = self.text("ack") {
            return Some(self.ack(reference));
        }
        if let Some(why) = self.text("error") {
            return Some(self.error(why));
        }
        if let Some(data) = self.text("data") {
            return Some(self.message(Message::text(data)));
        }
        match self.text("base64") {
            Some(base64) => self.binary(base64),
            None => Some(Frame::Unknown),
        }
    }

    fn binary(&self, base64: &str) -> Option<Frame> {
        let bytes = BASE64_STANDARD.decode(base64).ok()?;
        Some(self.message(Message::binary(bytes)))
    }

    fn ack(&self, reference: &str) -> Frame {
        Frame::Ack {
            reference: reference.to_owned(),
            id: self.id(),
        }
    }

    fn error(&self, why: &str) -> Frame {
        Frame::Error {
            why: why.to_owned(),
            reference: self.text("ref").map(str::to_owned),
        }
    }

    fn message(&self, message: Message) -> Frame {
        Frame::Message {
            id: self.id(),
            message,
        }
    }
}

/// The frame that publishes a message. The server answers with `reference`, and keeps only one
/// message for each `key`.
pub(crate) fn publish(message: &Message, reference: &str, key: &str) -> Message {
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
        Self {
            text: text.to_owned(),
            parts: Parts::parse(text),
        }
    }

    /// Whether it is `other` or before it, in the same epoch.
    pub(crate) fn is_at_or_before(&self, other: &Self) -> bool {
        self.offsets(other)
            .is_some_and(|(offset, others)| offset <= others)
    }

    /// Whether no message can be between `other` and this one.
    pub(crate) fn is_next_after(&self, other: &Self) -> bool {
        // An empty channel has no epoch that could be compared.
        if other.is_before_first() {
            return self.parts.is_some_and(|parts| parts.offset == 1);
        }
        self.offsets(other)
            .is_some_and(|(offset, others)| offset.checked_sub(others) == Some(1))
    }

    /// `0-0` stands for the position before the first message, in any epoch.
    fn is_before_first(&self) -> bool {
        self.text == "0-0"
    }

    /// Both offsets, if the epochs are the same.
    fn offsets(&self, other: &Self) -> Option<(u64, u64)> {
        let (parts, others) = (self.parts?, other.parts?);
        let is_same_epoch = self.epoch()? == other.epoch()?;
        is_same_epoch.then_some((parts.offset, others.offset))
    }

    fn epoch(&self) -> Option<&str> {
        Some(&self.text[..self.parts?.epoch])
    }
}

impl Parts {
    fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.rsplit_once('-')?;
        Some(Self {
            epoch: epoch.len(),
            offset: offset.parse().ok()?,
        })
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
                    why: "no".into(),
                    reference: None,
                },
            ),
            (
                r#"{"error":"no","ref":"7"}"#,
                Frame::Error {
                    why: "no".into(),
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
    fn a_published_message_keeps_its_kind() {
        let published = |message| {
            publish(&message, "1", "k-1")
                .into_text()
                .expect("frames are text")
        };
        let fields =
            |message| serde_json::from_str::<Value>(&published(message)).expect("frames are JSON");
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
    fn ids_of_one_epoch_are_compared_by_offset() {
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
