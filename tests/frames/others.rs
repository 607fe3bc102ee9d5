//! The same input given to other implementations, their answers in our words.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use echocast::message::Kind;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Heard, LIMITS};

/// What tungstenite makes of whole frames, up to a close: what it heard and the code we would close
/// with for its error.
pub(super) fn tungstenite(input: &[u8]) -> (Vec<Heard>, u16) {
    let limit = Some(LIMITS.max_message);
    let config = WebSocketConfig::default()
        .max_message_size(limit)
        .max_frame_size(limit);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let (mut stream, mut heard) = (Received(input), Vec::new());
    loop {
        heard.push(match context.read(&mut stream) {
            Ok(Message::Text(text)) => Heard::Message(Kind::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Heard::Message(Kind::Binary, bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Heard::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Heard::Pong(bytes.to_vec()),
            Ok(Message::Close(close)) => {
                heard.push(Heard::Close(
                    close.map(|close| (close.code.into(), close.reason.to_string())),
                ));
                return (heard, 0);
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (heard, 0);
            }
            Err(Error::Protocol(_)) => return (heard, 1002),
            Err(Error::Utf8(_)) => return (heard, 1007),
            Err(Error::Capacity(_)) => return (heard, 1009),
            other => panic!("unexpected from tungstenite: {other:?}"),
        });
    }
}

/// A socket from which something was received and to which everything can be sent.
pub(super) struct Received<'a>(pub(super) &'a [u8]);

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            self.0.read(buffer)
        }
    }
}

impl Write for Received<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What sockudo-ws makes of an input, up to a close.
pub(super) fn sockudo(input: &[u8]) -> (Vec<Heard>, u16) {
    use sockudo_ws::{Error, Message, Role, protocol::Protocol};
    let mut protocol = Protocol::new(Role::Server, LIMITS.max_message, LIMITS.max_message);
    let mut messages = Vec::new();
    let outcome = protocol.process_into(&mut BytesMut::from(input), &mut messages);
    let mut heard = Vec::new();
    for message in messages {
        heard.push(match message {
            Message::Text(bytes) => Heard::Message(Kind::Text, bytes.to_vec()),
            Message::Binary(bytes) => Heard::Message(Kind::Binary, bytes.to_vec()),
            Message::Ping(bytes) => Heard::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Heard::Pong(bytes.to_vec()),
            Message::Close(close) => {
                heard.push(Heard::Close(close.map(|close| (close.code, close.reason))));
                return (heard, 0);
            }
        });
    }
    let code = match outcome {
        Ok(()) => 0,
        Err(Error::Protocol(_) | Error::InvalidFrame(_) | Error::InvalidCloseCode(_)) => 1002,
        Err(Error::InvalidUtf8) => 1007,
        Err(Error::FrameTooLarge | Error::MessageTooLarge) => 1009,
        Err(other) => panic!("unexpected from sockudo-ws: {other}"),
    };
    (heard, code)
}
