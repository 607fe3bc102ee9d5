//! What a server expects around a message: nothing, or what makes it an event of Socket.IO, whose clients have a handshake
//! and heartbeats of their own inside of WebSocket's. Only what a load needs of that protocol is here.

use anyhow::{bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::{Next, Shape, TEXT, next, put_frame};

/// How messages are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    /// An event named `message` with one argument, in the default namespace (Engine.IO 4, Socket.IO 5).
    SocketIo,
}

/// A heartbeat and its answer.
pub(super) const HEARTBEAT: &[u8] = b"2";
pub(super) const ALIVE: &[u8] = b"3";

impl Dialect {
    pub(super) fn before(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::SocketIo => br#"42["message",""#,
        }
    }

    pub(super) fn after(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::SocketIo => br#""]"#,
        }
    }

    /// Bytes around a message.
    pub(super) fn around(self) -> usize {
        self.before().len() + self.after().len()
    }

    /// The message itself.
    #[inline]
    pub(super) fn unwrap(self, payload: &[u8]) -> Option<&[u8]> {
        payload.strip_prefix(self.before())?.strip_suffix(self.after())
    }

    /// What has to be said before the first message; `early` is what the server has said.
    pub(super) async fn enter(self, stream: &mut TcpStream, early: &mut Vec<u8>) -> anyhow::Result<()> {
        if self == Self::SocketIo {
            expect(b"0{", stream, early).await?;
            let mut join = BytesMut::new();
            put_frame(TEXT, b"40", &mut join);
            stream.write_all(&join).await?;
            expect(b"40{", stream, early).await?;
        }
        Ok(())
    }
}

/// Takes the next packet, which begins like this.
async fn expect(start: &[u8], stream: &mut TcpStream, early: &mut Vec<u8>) -> anyhow::Result<()> {
    let none_of_ours = Shape { length: 0, deflate: false, dialect: Dialect::Plain };
    loop {
        match next(early, none_of_ours) {
            Ok((Next::Foreign(length), header)) if early.len() >= header + length => {
                let packet: Vec<u8> = early.drain(..header + length).skip(header).collect();
                ensure!(packet.starts_with(start), "the server does not speak Socket.IO's protocol 5");
                return Ok(());
            }
            Ok((Next::Foreign(_) | Next::Incomplete, _)) => {}
            _ => bail!("the server does not speak Socket.IO"),
        }
        ensure!(stream.read_buf(early).await? > 0, "the server does not speak Socket.IO");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_message_is_taken_off() {
        assert_eq!(Dialect::Plain.unwrap(b"hi"), Some(&b"hi"[..]));
        assert_eq!(Dialect::SocketIo.unwrap(br#"42["message","hi"]"#), Some(&b"hi"[..]));
        assert_eq!(Dialect::SocketIo.unwrap(br#"42["another","hi"]"#), None);
        assert_eq!(Dialect::SocketIo.around(), br#"42["message",""]"#.len());
    }
}
