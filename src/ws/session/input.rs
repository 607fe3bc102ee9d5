//! The input of a session: bytes from its socket, and answers to its client's messages.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc::unbounded_channel;

use super::undecoded::Undecoded;
use super::{
    Answers, CloseReason, Closing, Ended, Session, Shared, Stage, Step, Tally, WriteBuffer,
};
use crate::budget::Part;
use crate::client::connection_limits::Permit;
use crate::client::rate::PublishRates;
use crate::frame::{ControlFrame, Event, Limits, Sink, TOO_MANY_BYTES, Violation};
use crate::hub::{Channel, Publication, Receipt};
use crate::message::{Kind, Sequence, Shape};
use crate::metrics::Transport;
use crate::telemetry;
use crate::ws::v1::{self, Said, Unreadable};

/// One read takes this much at most. The buffer is the worker thread's, not the session's.
const READ_BYTES: usize = 64 * 1024;

/// Frames of its own that a client may leave unread before we no longer read from it.
const CONTROL_BYTES: usize = 4 * 1024;

/// Messages of a client that wait for their answers before we no longer read from it.
const OWED_ANSWERS: usize = 4 * 1024;

/// Visits of the keepalive after which a message must be complete while unfinished ones crowd the
/// memory budget.
const UNFINISHED_VISITS: u16 = 2;

/// A frame of JSON that is parsed without the channel's lock, in bytes.
const LARGE_JSON: usize = 4 * 1024;

/// How a client that says more messages a second than it may is told.
const TOO_MANY_MESSAGES: &str = "too many messages a second";

/// The same of one whose address does.
const TOO_MANY_OF_ADDRESS: &str = "too many messages a second from your address";

thread_local! {
    /// Where sockets are read into; nothing in it outlives one call.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// How a connection ends: why, and the code and text of its close frame.
type Ending = (CloseReason, u16, String);

impl Session {
    /// Reads once; pending if there is nothing to read or no reading now.
    pub(super) fn read(
        &mut self,
        context: &mut Context<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<Ended, Poll<()>> {
        if self.only_reads() {
            // Answers to what it says go nowhere, and must not keep it from being read.
            (self.write_buffer, self.answers) = (WriteBuffer::default(), None);
        } else if self.closing().is_some() {
            return self.discard();
        }
        if self.undecoded.is_none() && !self.socket.is_readable() {
            return ControlFlow::Continue(Poll::Pending);
        }
        if self.transport() == Transport::Events {
            return self.ignore_input();
        }
        let waits = self
            .undecoded
            .as_ref()
            .is_some_and(|undecoded| !undecoded.bytes.is_empty());
        if !(waits || self.socket.is_readable()) || !self.may_read(context) {
            return ControlFlow::Continue(Poll::Pending);
        }
        if let Some(mut undecoded) = self.undecoded.take_if(|_| waits) {
            let (taken, completed) = self.decode_and_publish(&mut undecoded.bytes, tally);
            if undecoded.advance(taken, self.decoder.held_bytes())
                && (self.closing().is_none() || self.only_reads())
            {
                undecoded.visits = if completed { 0 } else { undecoded.visits };
                self.undecoded = Some(undecoded);
            }
            return ControlFlow::Continue(Poll::Ready(()));
        }
        SCRATCH.with_borrow_mut(|scratch| match self.socket.read(scratch) {
            Poll::Pending => ControlFlow::Continue(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(bytes)) => {
                self.shared
                    .metrics
                    .websocket
                    .received_bytes
                    .inc_by(bytes as u64);
                let read = &mut scratch[..bytes];
                let (taken, completed) = self.decode_and_publish(read, tally);
                self.keep(&read[taken..], completed);
                ControlFlow::Continue(Poll::Ready(()))
            }
        })
    }

    /// A client that does not read its pongs and answers gets no new ones: its socket is looked at
    /// again once they are written. Nor is it read while [`OWED_ANSWERS`] of its messages wait for
    /// their answers.
    fn may_read(&mut self, context: &Context<'_>) -> bool {
        !self.leaves_its_answers()
            && self.shared.hub.inbox().may_read(
                self.membership.channel(),
                context,
                &mut self.inbox_round,
            )
    }

    /// Whether it is not read from because of answers and pongs that it has not taken.
    pub(super) fn leaves_its_answers(&self) -> bool {
        let answers = self.answers.as_ref();
        self.write_buffer.held() >= CONTROL_BYTES
            || answers
                .is_some_and(|answers| !answers.receiver.is_empty() || answers.owed >= OWED_ANSWERS)
    }

    /// Keeps what was read and is not decoded, and counts what the decoder holds.
    fn keep(&mut self, rest: &[u8], completed: bool) {
        if self.closing().is_some() && !self.only_reads() {
            self.undecoded = None;
            return;
        }
        let held = self.decoder.held_bytes();
        // Dropped first, so that nothing counts twice.
        let before = self
            .undecoded
            .take()
            .map_or(0, |undecoded| undecoded.visits);
        self.undecoded = Undecoded::new(rest, held, self.shared.hub.budget());
        if let Some(undecoded) = self.undecoded.as_deref_mut().filter(|_| !completed) {
            undecoded.visits = before;
        }
    }

    /// Why the memory that its input holds has to be given back, if it has: nothing was completed
    /// for a while, and the input of all clients crowds the memory budget.
    pub(super) fn holds_too_long(&mut self) -> Option<&'static str> {
        // Bytes that wait for room or a turn are no fault of the client's.
        let undecoded = self.undecoded.as_mut().filter(|it| it.bytes.is_empty())?;
        undecoded.visits += 1;
        let crowds = undecoded.visits > UNFINISHED_VISITS
            && self.shared.hub.budget().is_crowded(Part::Input);
        crowds.then(|| {
            if self.decoder.is_mid_message() {
                "the rest of your message did not come in time"
            } else {
                "the memory that your compression needs is needed elsewhere"
            }
        })
    }

    /// A client of an event stream has nothing more to say: notices when it hangs up.
    fn ignore_input(&mut self) -> ControlFlow<Ended, Poll<()>> {
        match SCRATCH.with_borrow_mut(|scratch| self.socket.read(scratch)) {
            Poll::Pending => ControlFlow::Continue(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(_)) => ControlFlow::Continue(Poll::Ready(())),
        }
    }

    /// Throws away what a client says after the end began, and notices when it hangs up.
    fn discard(&mut self) -> ControlFlow<Ended, Poll<()>> {
        let Some(Closing {
            reason,
            step,
            hung_up,
            ..
        }) = self.closing()
        else {
            return ControlFlow::Continue(Poll::Pending);
        };
        let (reason, step, hung_up) = (*reason, *step, *hung_up);
        let ended = hung_up
            || match SCRATCH.with_borrow_mut(|scratch| self.socket.read(scratch)) {
                Poll::Pending => return ControlFlow::Continue(Poll::Pending),
                Poll::Ready(Ok(bytes)) => bytes == 0,
                Poll::Ready(Err(_)) => return ControlFlow::Break(reason),
            };
        match (
            ended,
            self.stage.as_deref_mut().and_then(Stage::closing_mut),
        ) {
            (true, _) if step == Step::Linger => ControlFlow::Break(reason),
            (true, Some(closing)) => {
                closing.hung_up = true;
                ControlFlow::Continue(Poll::Pending)
            }
            _ => ControlFlow::Continue(Poll::Ready(())),
        }
    }

    /// Publishes the messages that these bytes complete, as far as the visit and the inbox allow.
    /// Returns how many bytes it has taken, and whether any message was complete.
    fn decode_and_publish(&mut self, bytes: &mut [u8], tally: &mut Tally) -> (usize, bool) {
        self.silent_visits = None;
        let (outcome, decoded) = self.decode(bytes, tally);
        self.said = decoded.said;
        self.shared
            .metrics
            .websocket
            .received
            .inc_by(decoded.messages);
        let (taken, violation) = match outcome {
            Ok(taken) => (taken, None),
            Err(bad) => (
                bytes.len(),
                Some((bad.into(), bad.close_code(), bad.to_string())),
            ),
        };
        let end = decoded.end.or(violation);
        if let Some((reason, code, text)) = end.filter(|_| self.closing().is_none()) {
            self.begin_close_with(reason, code, text);
        }
        (taken, decoded.completed)
    }

    fn decode(
        &mut self,
        bytes: &mut [u8],
        tally: &mut Tally,
    ) -> (Result<usize, Violation>, Decoded) {
        let Self {
            shared,
            membership,
            decoder,
            write_buffer,
            said,
            rates,
            recipient,
            answers,
            permit,
            ..
        } = self;
        let mut limits = Limits {
            deflate: recipient.format.deflate.is_some(),
            ..shared.limits
        };
        if recipient.format.shape == Shape::V1 {
            limits.max_message = v1::max_frame(limits.max_message);
        }
        let mut input = Input {
            shared,
            channel: membership.channel(),
            shape: recipient.format.shape,
            sender: recipient.sender,
            write_buffer,
            rates: rates.as_deref(),
            permit,
            answers,
            tally,
            publication: None,
            charged: false,
            decoded: Decoded {
                said: *said,
                ..Decoded::default()
            },
        };
        let outcome = decoder.decode_into(&limits, bytes, &mut input);
        (outcome, input.decoded)
    }

    /// Tells the client what became of its messages, unless it leaves too much unread.
    pub(super) fn pass_answers(&mut self, context: &mut Context<'_>) {
        if !self.may_be_told() {
            return;
        }
        let Some(answers) = &mut self.answers else {
            return;
        };
        while self.write_buffer.held() < CONTROL_BYTES
            && let Poll::Ready(Some(answer)) = answers.receiver.poll_recv(context)
        {
            answers.owed -= 1;
            self.write_buffer.push_text(v1::answer(answer).as_bytes());
        }
    }
}

/// Takes what a client's bytes complete, in one go: messages are published under one lock, which is
/// given up while something is inflated or parsed that may be large.
struct Input<'a> {
    shared: &'a Shared,
    channel: &'a Arc<Channel>,
    shape: Shape,
    sender: u32,
    write_buffer: &'a mut WriteBuffer,
    /// Its limits of messages and bytes a second.
    rates: Option<&'a PublishRates>,
    permit: &'a Permit,
    answers: &'a mut Option<Box<Answers>>,
    tally: &'a mut Tally,
    publication: Option<Publication<'a>>,
    /// The next message has been held against the rates, before it was inflated.
    charged: bool,
    decoded: Decoded,
}

/// The result of decoding a client's bytes.
#[derive(Default)]
struct Decoded {
    /// Number of the client's newest message on this channel.
    said: Sequence,
    /// Messages that were published.
    messages: u64,
    /// A message was complete, whatever became of it.
    completed: bool,
    end: Option<Ending>,
}

impl Sink for Input<'_> {
    fn wants_more(&mut self) -> bool {
        let has_room = match &self.publication {
            Some(publication) => publication.has_room(),
            None => self.shared.hub.inbox().has_room_for(self.channel),
        };
        has_room
            && self.decoded.end.is_none()
            && !self.tally.is_used_up()
            && self.write_buffer.held() < CONTROL_BYTES
            && self
                .answers
                .as_ref()
                .is_none_or(|answers| answers.owed < OWED_ANSWERS)
    }

    fn inflating(&mut self) -> Result<usize, Violation> {
        self.charge_message()?;
        self.charged = true;
        // Others publish meanwhile.
        self.publication = None;
        let left = self
            .rates
            .map_or(u64::MAX, PublishRates::bytes_left)
            .try_into()
            .unwrap_or(usize::MAX);
        Ok(if self.shape == Shape::V1 {
            v1::max_frame(left)
        } else {
            left
        })
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Message { kind, payload } => self.take_message(kind, payload),
            Event::Ping(payload) => self.write_buffer.push(ControlFrame::Pong(payload)),
            Event::Pong(_) => {}
            Event::Close(given) => {
                let (code, text) = given.unwrap_or((CloseReason::Client.code(), ""));
                self.decoded.end = Some((CloseReason::Client, code, text.to_owned()));
            }
        }
    }
}

impl<'a> Input<'a> {
    fn charge_message(&mut self) -> Result<(), Violation> {
        if !self.permit.allows_message() {
            return Err(Violation::Rate(TOO_MANY_OF_ADDRESS));
        }
        let allowed = self.rates.is_none_or(PublishRates::allows_message);
        if allowed {
            Ok(())
        } else {
            Err(Violation::Rate(TOO_MANY_MESSAGES))
        }
    }

    /// Whether so many bytes may come; if not, the connection ends.
    fn charge_bytes(&mut self, bytes: usize) -> bool {
        let allowed = self.rates.is_none_or(|rates| rates.allows_bytes(bytes));
        if !allowed {
            self.end_for(Violation::Rate(TOO_MANY_BYTES));
        }
        allowed
    }

    fn end_for(&mut self, bad: Violation) {
        self.decoded.end = Some((bad.into(), bad.close_code(), bad.to_string()));
    }

    fn take_message(&mut self, kind: Kind, payload: &[u8]) {
        let inflated = std::mem::take(&mut self.charged);
        if !inflated && let Err(bad) = self.charge_message() {
            self.end_for(bad);
            return;
        }
        if inflated || self.shape == Shape::V1 {
            self.tally.work += payload.len();
        }
        self.decoded.completed = true;
        match self.shape {
            Shape::V1 => self.take_json(kind, payload),
            _ => self.publish(kind, payload, None, None),
        }
    }

    fn take_json(&mut self, kind: Kind, frame: &[u8]) {
        if frame.len() >= LARGE_JSON {
            self.publication = None;
        }
        match v1::read(kind, frame, self.shared.limits.max_message) {
            Ok(Said {
                kind,
                payload,
                reference,
                key,
            }) => {
                let receipt = reference.map(|reference| self.receipt(reference));
                self.publish(kind, &payload, key, receipt);
            }
            Err(Unreadable { why, reference }) => {
                if !self.charge_bytes(frame.len().min(self.shared.limits.max_message)) {
                    return;
                }
                self.write_buffer
                    .push_text(v1::error(&why, reference.as_deref()).as_bytes());
            }
        }
    }

    fn receipt(&mut self, reference: String) -> Receipt {
        let answers = self.answers.get_or_insert_with(|| {
            let (sender, receiver) = unbounded_channel();
            Box::new(Answers {
                sender,
                receiver,
                owed: 0,
            })
        });
        answers.owed += 1;
        Receipt {
            reference,
            answers: answers.sender.clone(),
        }
    }

    fn publish(
        &mut self,
        kind: Kind,
        payload: &[u8],
        key: Option<String>,
        receipt: Option<Receipt>,
    ) {
        if !self.charge_bytes(payload.len()) {
            return;
        }
        if self.shared.log_messages {
            telemetry::log_message(self.channel.name.as_str(), kind, payload);
        }
        let (channel, inbox) = (self.channel, self.shared.hub.inbox());
        let publication = self
            .publication
            .get_or_insert_with(|| channel.publish(inbox));
        self.decoded.messages += 1;
        self.decoded.said = publication.push_with(kind, payload, self.sender, key, receipt);
    }
}
