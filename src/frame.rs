//! WebSocket frames as a server reads and writes them (RFC 6455): bytes in, events out, and back.
//! Pure and synchronous. It decides whether frames are well-formed and within the limits. The
//! session decides when to read, what to answer and how long to wait for the rest of a message.

mod assembly;
mod encode;
mod header;
mod inflate;
mod mask;
mod utf8;

use std::mem;
use std::num::NonZeroU8;

use self::assembly::Assembly;
pub use self::encode::{
    ControlFrame, DEFLATED, MAX_CONTROL, MAX_SERVER_HEADER, encode_control, encode_header,
    header_len,
};
use self::header::{Frame, MAX_CLIENT_HEADER, Opcode};
pub use self::inflate::TOO_MANY_BYTES;
use self::inflate::{Bounds, History};

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
pub trait Sink {
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

/// Decodes one client's frames. Frames that arrive whole are passed on from the input buffer. Only
/// unfinished ones are kept, so that an idle connection costs two words.
#[derive(Debug, Default)]
pub struct Decoder {
    unfinished: Option<Box<Unfinished>>,
    /// A close or a violation was decoded. All later input is ignored.
    ended: bool,
    /// Bytes of its earlier messages that a deflated one may refer to, as a power of two; 0 if each
    /// stands alone.
    history_bits: u8,
}

/// State that waits for more bytes: at most one of a header and a frame, beside at most one message.
#[derive(Debug, Default)]
struct Unfinished {
    /// The first bytes of a header.
    header: [u8; MAX_CLIENT_HEADER],
    /// How many of these have arrived.
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The bytes of that payload that have arrived, if it is a control frame.
    control: Vec<u8>,
    /// The message of which some has arrived.
    message: Option<Assembly>,
    /// The end of earlier deflated messages, if the next one may refer to them.
    history: History,
}

impl Decoder {
    /// A decoder at the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same for a client whose deflated messages may refer to the last 2^`bits` bytes of
    /// earlier ones. They are kept once there are any.
    pub fn with_history(bits: Option<NonZeroU8>) -> Self {
        Self {
            history_bits: bits.map_or(0, NonZeroU8::get),
            ..Self::default()
        }
    }

    /// [`Self::decode_into`] for a caller that takes everything.
    ///
    /// # Errors
    /// The first violation.
    pub fn decode(
        &mut self,
        limits: &Limits,
        input: &mut [u8],
        mut on: impl FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        self.decode_into(limits, input, &mut on).map(drop)
    }

    /// Decodes bytes as they were read from the socket, and passes everything they complete to `on`,
    /// in order. Returns how many bytes are decoded: all, unless `on` wants no more. The decoded
    /// ones are unmasked in place; the others are unchanged. After a close or a violation all input
    /// is ignored.
    ///
    /// # Errors
    /// The first violation, which is the same however the input was split. Everything complete
    /// before it has been passed on.
    pub fn decode_into(
        &mut self,
        limits: &Limits,
        input: &mut [u8],
        on: &mut impl Sink,
    ) -> Result<usize, Violation> {
        let outcome = self.read_frames(limits, input, on);
        self.ended |= outcome.is_err();
        if self.ended || self.unfinished.as_deref().is_some_and(Unfinished::is_empty) {
            self.unfinished = None;
        }
        outcome
    }

    /// Whether the rest of a header, a frame or a message is missing.
    pub fn is_mid_message(&self) -> bool {
        self.unfinished
            .as_deref()
            .is_some_and(Unfinished::is_mid_message)
    }

    /// Bytes of memory held beside the decoder itself.
    pub fn held_bytes(&self) -> usize {
        self.unfinished.as_deref().map_or(0, |unfinished| {
            let message = unfinished.message.as_ref().map_or(0, Assembly::capacity);
            let history = unfinished.history.capacity();
            size_of::<Unfinished>() + unfinished.control.capacity() + message + history
        })
    }

    fn read_frames(
        &mut self,
        limits: &Limits,
        mut input: &mut [u8],
        on: &mut impl Sink,
    ) -> Result<usize, Violation> {
        let length = input.len();
        while !input.is_empty() && !self.ended {
            // The rest of the frame before, or a new one.
            let unfinished = self.unfinished.as_mut();
            let begun = unfinished.and_then(|unfinished| unfinished.frame.take());
            let (mut frame, rest) = match begun {
                Some(frame) => (frame, input),
                None if !on.wants_more() => return Ok(length - input.len()),
                None => match self.read_header(limits, input)? {
                    Some(begun) => begun,
                    None => break,
                },
            };
            let (payload, rest) = rest.split_at_mut(frame.missing.min(rest.len()));
            frame.missing -= payload.len();
            frame.key = mask::unmask(payload, frame.key);
            match frame.opcode {
                Opcode::Data(kind) => self.take_data(limits, frame, kind, payload, on)?,
                _ => self.take_control(frame, payload, on)?,
            }
            input = rest;
        }
        Ok(length)
    }

    /// The next frame, and the input after its header. If the input ends within the header, `None`,
    /// and the decoder keeps these bytes.
    // Inlined for the same reason as `Frame::parse`.
    #[inline(always)]
    fn read_header<'a>(
        &mut self,
        limits: &Limits,
        input: &'a mut [u8],
    ) -> Result<Option<(Frame, &'a mut [u8])>, Violation> {
        if let Some(unfinished) = self.unfinished.as_deref_mut()
            && unfinished.header_len > 0
        {
            return unfinished.continue_header(limits, input);
        }
        let message = self
            .unfinished
            .as_deref()
            .and_then(|unfinished| unfinished.message.as_ref());
        let Some((frame, len)) = Frame::parse(limits, input, message)? else {
            let unfinished = self.unfinished.get_or_insert_default();
            unfinished.header[..input.len()].copy_from_slice(input);
            unfinished.header_len = input.len();
            return Ok(None);
        };
        Ok(Some((frame, &mut input[len..])))
    }

    /// Takes the bytes of a text, binary or continuation frame that have arrived.
    fn take_data(
        &mut self,
        limits: &Limits,
        frame: Frame,
        kind: Kind,
        payload: &[u8],
        on: &mut impl Sink,
    ) -> Result<(), Violation> {
        // Most messages are one frame that arrives whole: nothing is copied.
        let is_last = frame.fin && frame.missing == 0;
        let unfinished = self.unfinished.as_deref();
        if is_last && unfinished.is_none_or(|unfinished| unfinished.message.is_none()) {
            if frame.deflated {
                return self.take_deflated(limits, kind, payload, on);
            }
            return take_whole(kind, payload, on);
        }
        // Others are put together. The taken message goes back unless this was its end.
        let unfinished = self.unfinished.get_or_insert_default();
        let message = unfinished.message.take();
        let mut message = message.unwrap_or_else(|| Assembly::new(kind, frame.deflated));
        message.append(payload, limits)?;
        if is_last {
            return self.take_assembled(limits, &message, on);
        }
        if frame.missing > 0 {
            unfinished.frame = Some(frame);
        } else {
            message.end_fragment();
        }
        unfinished.message = Some(message);
        Ok(())
    }

    /// Takes a message that was put together.
    fn take_assembled(
        &mut self,
        limits: &Limits,
        message: &Assembly,
        on: &mut impl Sink,
    ) -> Result<(), Violation> {
        let (kind, payload) = (message.kind(), message.finish()?);
        if message.is_deflated() {
            return self.take_deflated(limits, kind, payload, on);
        }
        on.take(Event::Message { kind, payload });
        Ok(())
    }

    /// Inflates a message and takes it.
    fn take_deflated(
        &mut self,
        limits: &Limits,
        kind: Kind,
        payload: &[u8],
        on: &mut impl Sink,
    ) -> Result<(), Violation> {
        let mut bounds = Bounds {
            message: limits.max_message,
            rate: on.inflating()?,
            history: 0,
        };
        let take = |payload: &[u8]| take_whole(kind, payload, on);
        if self.history_bits == 0 {
            return inflate::inflated(payload, bounds, &mut History::default(), take);
        }
        bounds.history = 1 << self.history_bits;
        let history = &mut self.unfinished.get_or_insert_default().history;
        inflate::inflated(payload, bounds, history, take)
    }

    /// Takes the bytes of a ping, pong or close that have arrived.
    fn take_control(
        &mut self,
        frame: Frame,
        payload: &[u8],
        on: &mut impl Sink,
    ) -> Result<(), Violation> {
        if frame.missing > 0 {
            let unfinished = self.unfinished.get_or_insert_default();
            unfinished.control.extend_from_slice(payload);
            unfinished.frame = Some(frame);
            return Ok(());
        }
        let unfinished = self.unfinished.as_deref_mut();
        let begun = unfinished.map(|unfinished| mem::take(&mut unfinished.control));
        let mut control = begun.unwrap_or_default();
        // Most arrive whole: nothing is copied.
        let payload = if control.is_empty() {
            payload
        } else {
            control.extend_from_slice(payload);
            &control
        };
        match frame.opcode {
            Opcode::Ping => on.take(Event::Ping(payload)),
            Opcode::Pong => on.take(Event::Pong(payload)),
            _ => {
                on.take(Event::Close(header::parse_close(payload)?));
                self.ended = true;
            }
        }
        Ok(())
    }
}

/// Takes a complete payload whose text is not checked.
fn take_whole(kind: Kind, payload: &[u8], on: &mut impl Sink) -> Result<(), Violation> {
    if kind == Kind::Text && utf8::text(payload).is_none() {
        return Err(Violation::NotUtf8);
    }
    on.take(Event::Message { kind, payload });
    Ok(())
}

impl Unfinished {
    /// Adds input to a header of which some has arrived: see [`Decoder::read_header`].
    fn continue_header<'a>(
        &mut self,
        limits: &Limits,
        input: &'a mut [u8],
    ) -> Result<Option<(Frame, &'a mut [u8])>, Violation> {
        let before = self.header_len;
        let space = &mut self.header[before..];
        let more = space.len().min(input.len());
        space[..more].copy_from_slice(&input[..more]);
        self.header_len += more;
        let header = &self.header[..self.header_len];
        let Some((frame, len)) = Frame::parse(limits, header, self.message.as_ref())? else {
            return Ok(None);
        };
        self.header_len = 0;
        // More than the rest of the header may have been copied.
        Ok(Some((frame, &mut input[len - before..])))
    }

    fn is_empty(&self) -> bool {
        !self.is_mid_message() && self.history.is_empty()
    }

    fn is_mid_message(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }
}
