//! How a message is wrapped: not at all, or as an event of Socket.IO.
//!
//! Only what a load needs of Socket.IO is here, and its handshake is in [`super::socket_io`].

/// How messages are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    /// An event named `message` with one argument, in the default namespace (Engine.IO 4, Socket.IO
    /// 5). Its heartbeats are messages to WebSocket.
    SocketIo,
}

/// A heartbeat of Socket.IO, and the answer that its server expects.
pub(super) const HEARTBEAT: &[u8] = b"2";
pub(super) const HEARTBEAT_REPLY: &[u8] = b"3";

impl Dialect {
    /// Bytes before a message.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::SocketIo => br#"42["message",""#,
        }
    }

    /// Bytes behind a message.
    pub(super) fn suffix(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::SocketIo => br#""]"#,
        }
    }

    /// How many bytes wrapping adds to a message.
    pub(super) fn overhead(self) -> usize {
        self.prefix().len() + self.suffix().len()
    }

    /// The message itself.
    #[inline]
    pub(super) fn unwrap(self, payload: &[u8]) -> Option<&[u8]> {
        payload
            .strip_prefix(self.prefix())?
            .strip_suffix(self.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_unwrapped_from_its_dialect() {
        assert_eq!(Dialect::Plain.unwrap(b"hi"), Some(&b"hi"[..]));
        assert_eq!(
            Dialect::SocketIo.unwrap(br#"42["message","hi"]"#),
            Some(&b"hi"[..])
        );
        assert_eq!(Dialect::SocketIo.unwrap(br#"42["another","hi"]"#), None);
        assert_eq!(Dialect::SocketIo.overhead(), br#"42["message",""]"#.len());
    }
}
