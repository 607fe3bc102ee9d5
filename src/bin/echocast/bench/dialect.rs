//! The frame around a message: none, or that of an event of Socket.IO, whose clients have
//! heartbeats of their own inside of WebSocket's. Only what a load needs of that protocol is here;
//! its handshake is in [`super::entrance`].

/// How messages are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    /// An event named `message` with one argument, in the default namespace (Engine.IO 4, Socket.IO
    /// 5).
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
        payload
            .strip_prefix(self.before())?
            .strip_suffix(self.after())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_message_is_taken_off() {
        assert_eq!(Dialect::Plain.unwrap(b"hi"), Some(&b"hi"[..]));
        assert_eq!(
            Dialect::SocketIo.unwrap(br#"42["message","hi"]"#),
            Some(&b"hi"[..])
        );
        assert_eq!(Dialect::SocketIo.unwrap(br#"42["another","hi"]"#), None);
        assert_eq!(Dialect::SocketIo.around(), br#"42["message",""]"#.len());
    }
}
