//! The decoder: takes bytes as they are read from a socket, and keeps those of unfinished frames and
//! messages.

use std::mem;
use std::num::NonZeroU8;

use super::assembly::Assembly;
use super::header::{self, Frame, MAX_CLIENT_HEADER, Opcode};
use super::inflate::{self, Bounds, History};
use super::{Event, Kind, Limits, Sink, Violation, mask, utf8};

/// Memory of an unfinished message that does not count yet, in bytes: see [`Decoder::counted_bytes`].
const UNCOUNTED: usize = 4 * 1024;

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
    pub(crate) fn with_history(bits: Option<NonZeroU8>) -> Self {
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
    pub(crate) fn decode_into(
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
        self.unfinished.as_deref().map_or(0, Unfinished::held_bytes)
    }

    /// The part of [`Self::held_bytes`] that is worth counting in a budget. A little of an
    /// unfinished message is not, because headers that lie across two reads come and go all the
    /// time. A client's history stays, so it always is.
    pub(crate) fn counted_bytes(&self) -> usize {
        let unfinished = self.unfinished.as_deref();
        let has_history = unfinished.is_some_and(|unfinished| !unfinished.history.is_empty());
        let bytes = self.held_bytes();
        if bytes < UNCOUNTED && !has_history {
            0
        } else {
            bytes
        }
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
        let Some((frame, len)) = Frame::parse(limits, input, self.message())? else {
            let unfinished = self.unfinished.get_or_insert_default();
            unfinished.header[..input.len()].copy_from_slice(input);
            unfinished.header_len = input.len();
            return Ok(None);
        };
        Ok(Some((frame, &mut input[len..])))
    }

    /// The message of which some has arrived.
    #[inline]
    fn message(&self) -> Option<&Assembly> {
        self.unfinished.as_deref()?.message.as_ref()
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
        if is_last && self.message().is_none() {
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

    fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, Assembly::capacity);
        size_of::<Self>() + self.control.capacity() + message + self.history.capacity()
    }

    fn is_empty(&self) -> bool {
        !self.is_mid_message() && self.history.is_empty()
    }

    fn is_mid_message(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }
}
