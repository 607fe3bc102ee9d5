//! The encodings of a batch, one for each kind of connection. A batch is encoded once in each format
//! that is read; its raw frames are made with the batch itself.

use std::cell::RefCell;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::deflate::{DeflateWindow, deflated};
use super::{Batch, Kind, MessageId, Missed};
use crate::frame;

/// A way in which messages are written to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// The shape of a message.
    pub shape: Shape,
    /// Whether WebSocket frames are deflated, and for whom.
    pub deflate: Option<DeflateWindow>,
}

/// The shape of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A WebSocket frame with nothing but the payload.
    Raw,
    /// A JSON object in a WebSocket text frame (`echocast.v1`).
    V1,
    /// A server-sent event.
    Events,
}

/// Number of formats beside the one in which batches are built.
pub(super) const OTHERS: usize = 6;

impl Format {
    /// Plain frames, in which batches are built.
    pub(crate) const RAW: Self = Self {
        shape: Shape::Raw,
        deflate: None,
    };
    /// JSON in plain frames.
    #[cfg(test)]
    pub(crate) const V1: Self = Self {
        shape: Shape::V1,
        deflate: None,
    };
    /// Server-sent events.
    pub(crate) const EVENTS: Self = Self {
        shape: Shape::Events,
        deflate: None,
    };

    /// Its number among the other formats; `None` for the one in which batches are built.
    pub(super) fn index(self) -> Option<usize> {
        Some(match (self.shape, self.deflate) {
            (Shape::Raw, None) => return None,
            (Shape::Events, _) => 0,
            (Shape::V1, None) => 1,
            (Shape::Raw, Some(DeflateWindow::Smallest)) => 2,
            (Shape::Raw, Some(DeflateWindow::Full)) => 3,
            (Shape::V1, Some(DeflateWindow::Smallest)) => 4,
            (Shape::V1, Some(DeflateWindow::Full)) => 5,
        })
    }
}

/// Bytes of the thread's buffer that are kept between two batches.
const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    /// The buffer in which a batch is encoded. Its length is known only afterwards, and a buffer
    /// that grew is larger than its content, so the result is copied.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A batch in one format: its items, one after another. An item is a message, or the mark of a gap.
#[derive(Debug)]
pub(super) struct Encoded {
    /// All items.
    pub bytes: Bytes,
    /// Where each item ends.
    pub ends: Box<[u32]>,
}

impl Encoded {
    pub(super) fn new(batch: &Batch, format: Format) -> Self {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut ends = Vec::with_capacity(batch.len().max(1));
            write_items(batch, format, scratch, &mut ends);
            let bytes = Bytes::copy_from_slice(scratch);
            scratch.clear();
            scratch.shrink_to(SCRATCH_BYTES);
            Self {
                bytes,
                ends: ends.into(),
            }
        })
    }

    /// Bytes that it takes in memory.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends) + size_of::<Self>()
    }
}

fn write_items(batch: &Batch, format: Format, bytes: &mut Vec<u8>, ends: &mut Vec<u32>) {
    if let Some(missed) = batch.gap {
        put_gap(format, missed, bytes);
        if !bytes.is_empty() {
            ends.push(bytes.len() as u32);
        }
    }
    let mut json = Vec::new();
    for (index, (kind, payload)) in batch.messages().enumerate() {
        match format.shape {
            Shape::Raw => put_frame(kind, payload, format.deflate, bytes),
            Shape::V1 => {
                json.clear();
                put_json(batch.id(index), batch.time_ms(), kind, payload, &mut json);
                put_frame(Kind::Text, &json, format.deflate, bytes);
            }
            Shape::Events => put_event(batch.id(index), kind, payload, bytes),
        }
        ends.push(bytes.len() as u32);
    }
}

fn put_frame(kind: Kind, payload: &[u8], deflate: Option<DeflateWindow>, out: &mut Vec<u8>) {
    let Some(window) = deflate else {
        frame::encode_header(kind, payload.len(), out);
        return out.extend_from_slice(payload);
    };
    deflated(payload, window, |shorter| match shorter {
        Some(shorter) => {
            let first = out.len();
            frame::encode_header(kind, shorter.len(), out);
            out[first] |= frame::DEFLATED;
            out.extend_from_slice(shorter);
        }
        None => put_frame(kind, payload, None, out),
    });
}

/// Writes a WebSocket text frame.
pub(crate) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    put_frame(Kind::Text, text, None, out);
}

/// Writes that messages are missing here.
pub(crate) fn put_gap(format: Format, missed: Missed, out: &mut Vec<u8>) {
    let missed = missed.count();
    match format.shape {
        Shape::Raw => {}
        Shape::V1 => put_text(
            json!({ "event": "gap", "missed": missed })
                .to_string()
                .as_bytes(),
            out,
        ),
        Shape::Events => {
            out.extend(format!("event: gap\ndata: {}\n\n", json!({ "missed": missed })).bytes())
        }
    }
}

/// Writes a message as a JSON object. `time_ms` is when it was published, in milliseconds since
/// 1970.
pub(crate) fn put_json(
    id: Option<MessageId>,
    time_ms: u64,
    kind: Kind,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    if let Some(id) = id {
        put(out, format_args!("\"id\":\"{id}\","));
    }
    put(out, format_args!("\"time\":{time_ms},"));
    match std::str::from_utf8(payload) {
        Ok(text) if kind == Kind::Text => {
            out.extend_from_slice(b"\"data\":");
            serde_json::to_writer(&mut *out, text).expect("any text is JSON, and memory takes it");
        }
        _ => {
            out.extend_from_slice(b"\"base64\":\"");
            put_base64(payload, out);
            out.push(b'"');
        }
    }
    out.push(b'}');
}

fn put_event(id: Option<MessageId>, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    if let Some(id) = id {
        put(out, format_args!("id: {id}\n"));
    }
    match kind {
        Kind::Text => put_data_lines(payload, out),
        Kind::Binary => {
            out.extend_from_slice(b"event: binary\ndata: ");
            put_base64(payload, out);
            out.push(b'\n');
        }
    }
    out.push(b'\n');
}

/// Writes a `data:` line for each line of the text.
fn put_data_lines(text: &[u8], out: &mut Vec<u8>) {
    // A line ends with \r\n, \n or \r, because an event stream cannot tell them apart.
    let mut rest = text;
    loop {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        rest = match &rest[end..] {
            [] => break,
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
        };
    }
}

fn put_base64(payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(STANDARD.encode(payload).as_bytes());
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::BatchBuilder;

    fn encoded(format: Format, messages: &[(Kind, &[u8])]) -> Bytes {
        let mut builder = BatchBuilder::default();
        messages
            .iter()
            .for_each(|(kind, payload)| builder.push(*kind, payload, 0));
        let mut batch = builder.build(1_767_225_600_123_999_999);
        (batch.epoch, batch.offset, batch.span) = (0xab, 5, messages.len() as u64);
        let Encoded { bytes, ends } = Encoded::new(&batch, format);
        assert_eq!(
            (ends.len(), ends.last()),
            (messages.len(), Some(&(bytes.len() as u32)))
        );
        bytes
    }

    #[test]
    fn json_is_framed_and_escaped_and_has_ids_and_times() {
        let bytes = encoded(
            Format::V1,
            &[(Kind::Text, b"a\"\n"), (Kind::Binary, &[0, 255])],
        );
        let first = r#"{"id":"00000000000000ab-5","time":1767225600123,"data":"a\"\n"}"#;
        let second = r#"{"id":"00000000000000ab-6","time":1767225600123,"base64":"AP8="}"#;
        let mut expected = Vec::new();
        for json in [first, second] {
            expected.extend([0x81, json.len() as u8]);
            expected.extend(json.bytes());
        }
        assert_eq!(bytes, expected);
    }

    #[test]
    fn events_have_a_data_line_for_each_line() {
        let bytes = encoded(
            Format::EVENTS,
            &[
                (Kind::Text, b"a\r\nb\rc\n"),
                (Kind::Text, b""),
                (Kind::Binary, &[1]),
            ],
        );
        assert_eq!(
            bytes,
            "id: 00000000000000ab-5\ndata: a\ndata: b\ndata: c\ndata: \n\n\
             id: 00000000000000ab-6\ndata: \n\n\
             id: 00000000000000ab-7\nevent: binary\ndata: AQ==\n\n"
        );
    }
}
