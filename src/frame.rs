//! WebSocket frames as a server reads and writes them (RFC 6455): bytes in, events out, and back.
//! Pure and synchronous. It decides whether frames are well-formed and within the limits. The
//! session decides when to read, what to answer and how long to wait for the rest of a message.

mod assembly;
mod decoder;
mod encode;
mod header;
mod inflate;
mod mask;
mod utf8;

pub use self::decoder::Decoder;
pub(crate) use self::encode::DEFLATED;
pub use self::encode::{
    ControlFrame, MAX_CONTROL, MAX_SERVER_HEADER, encode_control, encode_header, header_len,
};
pub(crate) use self::inflate::TOO_MANY_BYTES;

/// The kind of a message: it is delivered as it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// Bounds of a client's messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of payload in one message, over all its fragments.
    pub max_message: usize,
    /// Frames in one message, empty ones included. Without this bound a client could keep a message
    /// open for ever.
    pub max_fragments: u32,
    /// Whether messages may be deflated.
    pub deflate: bool,
}

/// A complete message or control frame of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text or binary message, put together from its fragments.
    Message {
        /// Text or binary.
        kind: Kind,
        /// Its bytes: valid UTF-8 if it is text.
        payload: &'a [u8],
    },
    /// It must be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or an unsolicited one.
    Pong(&'a [u8]),
    /// The last frame of a client, with a code and a reason if it gave them.
    Close(Option<(u16, &'a str)>),
}

/// Receives the events of a decoder, and limits how much is decoded now.
pub(crate) trait Sink {
    /// Whether another frame may be decoded now. If not, decoding stops before it.
    fn wants_more(&mut self) -> bool {
        true
    }

    /// A message is about to be inflated. Returns how many bytes it may become, if that is less
    /// than [`Limits::max_message`].
    ///
    /// # Errors
    /// If it may not be inflated at all.
    fn inflating(&mut self) -> Result<usize, Violation> {
        Ok(usize::MAX)
    }

    /// A message or control frame is complete.
    fn take(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> Sink for F {
    fn take(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not the WebSocket protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A deflated message that does not inflate.
    #[error("message does not inflate")]
    Deflated,
    /// A text message or a close reason that is not text.
    #[error("text is not valid UTF-8")]
    NotUtf8,
    /// A message longer than [`Limits::max_message`].
    #[error("message is longer than {limit} bytes")]
    TooBig {
        /// The limit it broke, in bytes.
        limit: usize,
    },
    /// More than the client may send in a second. Found by a [`Sink`].
    #[error("{0}")]
    Rate(&'static str),
    /// A message of more frames than [`Limits::max_fragments`].
    #[error("message has more than {limit} fragments")]
    TooManyFragments {
        /// The limit it broke, in frames.
        limit: u32,
    },
}

impl Violation {
    /// The code of the close frame. Too many fragments are 1009 like too many bytes, because the
    /// message is too big in both cases. 1008 is for what a client is not allowed to do.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 | Self::Deflated => 1007,
            Self::Rate(_) => 1008,
            Self::TooBig { .. } | Self::TooManyFragments { .. } => 1009,
        }
    }
}
