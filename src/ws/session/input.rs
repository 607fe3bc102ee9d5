//! The input of a session: bytes from its socket, as far as there is room for what they become.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU8;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::answers::Answers;
use super::undecoded::Undecoded;
use super::{CloseReason, PENDING, Progress, READY, Session, Shared, Tally};
use crate::budget::Part;
use crate::client::rate::PublishRates;
use crate::frame::Decoder;
use crate::message::Sequence;
use crate::metrics::Transport;
use crate::ws::write_buffer::WriteBuffer;

/// The most bytes of one read. The buffer is the worker thread's, not the session's.
const READ_BYTES: usize = 64 * 1024;

/// Visits of the keepalive after which a message must be complete while the input of all clients
/// crowds the memory budget.
const UNFINISHED_VISITS: u16 = 2;

thread_local! {
    /// Where sockets are read into. Nothing in it outlives one call.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// The input of a session.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) decoder: Decoder,
    /// Bytes that the client sent and that are not decoded, if there are any.
    pub(super) undecoded: Option<Box<Undecoded>>,
    /// The newest message that this client published.
    pub(super) published: Sequence,
    /// See [`crate::hub::Inbox::may_read`].
    inbox_round: u64,
    /// `None` without limits.
    pub(super) rates: Option<Box<PublishRates>>,
    /// `None` until the client asks for an answer.
    pub(super) answers: Option<Box<Answers>>,
}

/// The result of decoding some bytes.
pub(super) struct Consumed {
    /// How many of them are decoded.
    pub(super) bytes: usize,
    /// They completed a message, whatever became of it.
    pub(super) completed: bool,
}

impl Input {
    pub(super) fn new(
        early: Bytes,
        transport: Transport,
        client_history: Option<NonZeroU8>,
        shared: &Shared,
    ) -> Self {
        // A client of an event stream has nothing to send after its request.
        let early = match transport {
            Transport::Events => Bytes::new(),
            _ => early,
        };
        let received = &shared.metrics.websocket.received_bytes;
        received.inc_by(early.len() as u64);
        let is_limited = shared.publish.any();
        Self {
            decoder: Decoder::with_history(client_history),
            undecoded: Undecoded::new(&early, 0, shared.hub.budget()),
            published: Sequence::default(),
            inbox_round: 0,
            rates: is_limited.then(|| Box::new(PublishRates::new(shared.publish))),
            answers: None,
        }
    }

    /// Whether answers to this client's messages are missing.
    pub(super) fn owes_answers(&self) -> bool {
        let answers = self.answers.as_ref();
        answers.is_some_and(|answers| answers.are_owed())
    }

    /// The close text for a client whose input holds memory.
    fn describe_held(&self) -> &'static str {
        if self.decoder.is_mid_message() {
            "the rest of your message did not come in time"
        } else {
            "the memory that your compression needs is needed elsewhere"
        }
    }

    fn has_bytes(&self) -> bool {
        self.undecoded
            .as_ref()
            .is_some_and(|undecoded| !undecoded.bytes.is_empty())
    }
}

impl Session {
    /// Reads once. Pending if there is nothing to read, or it may not be read from now.
    pub(super) fn read(&mut self, context: &mut Context<'_>, tally: &mut Tally) -> Progress {
        if self.only_reads() {
            // Nothing can be written any more. Pongs and answers must not keep it from reading.
            (self.output.buffer, self.input.answers) = (WriteBuffer::default(), None);
        } else if self.closing().is_some() {
            return self.discard();
        }
        // Most polls end here: a batch came, and the client sent nothing.
        if self.input.undecoded.is_none() && !self.socket.is_readable() {
            return PENDING;
        }
        if self.transport() == Transport::Events {
            return self.ignore_input();
        }
        let has_bytes = self.input.has_bytes();
        if !(has_bytes || self.socket.is_readable()) || !self.may_read(context) {
            return PENDING;
        }
        if has_bytes {
            self.decode_rest(tally);
            return READY;
        }
        self.read_socket(tally)
    }

    /// Whether the client takes its answers and the inbox has room for its channel. If not, the
    /// task is woken when that changes.
    fn may_read(&mut self, context: &Context<'_>) -> bool {
        !self.leaves_answers_unread()
            && self.shared.hub.inbox().may_read(
                self.membership.channel(),
                context,
                &mut self.input.inbox_round,
            )
    }

    /// Whether it is not read from because of answers and pongs that it has not taken. More of
    /// them would need memory without end.
    pub(super) fn leaves_answers_unread(&self) -> bool {
        let answers = self.input.answers.as_ref();
        self.output.buffer.is_full()
            || answers.is_some_and(|answers| answers.have_come() || answers.are_too_many())
    }

    /// Decodes more of the bytes that an earlier read has left.
    fn decode_rest(&mut self, tally: &mut Tally) {
        let Some(mut undecoded) = self.input.undecoded.take() else {
            return;
        };
        let consumed = self.decode_and_publish(&mut undecoded.bytes, tally);
        let is_needed = undecoded.advance(consumed.bytes, self.input.decoder.counted_bytes());
        if is_needed && self.decodes() {
            if consumed.completed {
                undecoded.visits = 0;
            }
            self.input.undecoded = Some(undecoded);
        }
    }

    fn read_socket(&mut self, tally: &mut Tally) -> Progress {
        SCRATCH.with_borrow_mut(|scratch| match self.socket.read(scratch) {
            Poll::Pending => PENDING,
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(bytes)) => {
                let received = &self.shared.metrics.websocket.received_bytes;
                received.inc_by(bytes as u64);
                let read = &mut scratch[..bytes];
                let consumed = self.decode_and_publish(read, tally);
                self.keep(&read[consumed.bytes..], consumed.completed);
                READY
            }
        })
    }

    /// Keeps bytes that were read and are not decoded, and counts what the decoder holds.
    fn keep(&mut self, rest: &[u8], completed: bool) {
        // The earlier rest is dropped first, so that nothing counts twice.
        let undecoded = self.input.undecoded.take();
        let visits = undecoded.map_or(0, |undecoded| undecoded.visits);
        if !self.decodes() {
            return;
        }
        let held = self.input.decoder.counted_bytes();
        self.input.undecoded = Undecoded::new(rest, held, self.shared.hub.budget());
        if let Some(undecoded) = self.input.undecoded.as_deref_mut()
            && !completed
        {
            undecoded.visits = visits;
        }
    }

    /// Whether the client's bytes still become messages.
    fn decodes(&self) -> bool {
        self.closing().is_none() || self.only_reads()
    }

    /// Why the client has to give back the memory that its input holds, if it has to: it completed
    /// no message for a while, and the input of all clients crowds the memory budget.
    pub(super) fn holds_input_too_long(&mut self) -> Option<&'static str> {
        let undecoded = self.input.undecoded.as_mut()?;
        if !undecoded.bytes.is_empty() {
            // It waits for room or for its turn, which is no fault of the client's.
            return None;
        }
        undecoded.visits += 1;
        let is_late = undecoded.visits > UNFINISHED_VISITS;
        let is_crowded = is_late && self.shared.hub.budget().is_crowded(Part::Input);
        is_crowded.then(|| self.input.describe_held())
    }

    /// Ignores what a client of an event stream sends, and notices when it hangs up.
    fn ignore_input(&mut self) -> Progress {
        match self.read_in_vain() {
            Poll::Pending => PENDING,
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(_)) => READY,
        }
    }

    /// Reads once into nowhere; returns how many bytes.
    pub(super) fn read_in_vain(&mut self) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| self.socket.read(scratch))
    }
}
