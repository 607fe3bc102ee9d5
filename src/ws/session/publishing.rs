//! Publishing: what the frames of a client become. The messages of one read are published together,
//! under one lock of their channel, which is released while something large is inflated or parsed.

use std::sync::Arc;

use super::answers::Answers;
use super::input::{Consumed, OWN_FRAMES_BYTES};
use super::{CloseReason, Session, Shared, Tally};
use crate::client::connection_limits::Permit;
use crate::client::rate::PublishRates;
use crate::frame::{ControlFrame, Event, Limits, Sink, TOO_MANY_BYTES, Violation};
use crate::hub::{Channel, Publication, Receipt};
use crate::message::{Kind, Sequence, Shape};
use crate::telemetry;
use crate::ws::v1::{self, Publish, Unreadable};
use crate::ws::write_buffer::WriteBuffer;

/// A frame of JSON that is parsed without the channel's lock, in bytes.
const LARGE_JSON: usize = 4 * 1024;

/// The close text for a client that sends more messages a second than it may.
const TOO_MANY_MESSAGES: &str = "too many messages a second";

/// The same where all clients of its address do.
const TOO_MANY_OF_ADDRESS: &str = "too many messages a second from your address";

/// Takes the events of the decoder and publishes messages.
struct Publisher<'a> {
    shared: &'a Shared,
    channel: &'a Arc<Channel>,
    shape: Shape,
    /// See [`super::Recipient::sender`].
    sender: u32,
    buffer: &'a mut WriteBuffer,
    answers: &'a mut Option<Box<Answers>>,
    /// The limits of this connection; those of its address are the permit's.
    rates: Option<&'a PublishRates>,
    permit: &'a Permit,
    tally: &'a mut Tally,
    /// Holds the channel's lock. `None` before the first message.
    publication: Option<Publication<'a>>,
    /// The next message has been counted for the rates, before it was inflated.
    is_charged: bool,
    outcome: Outcome,
}

/// What came of a client's bytes.
#[derive(Default)]
struct Outcome {
    /// The client's newest message.
    published: Sequence,
    /// Messages that were published.
    messages: u64,
    /// A message was complete, whatever became of it.
    completed: bool,
    end: Option<End>,
}

/// How the client has ended the connection, or why we do.
struct End {
    reason: CloseReason,
    code: u16,
    text: String,
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self {
            reason: violation.into(),
            code: violation.close_code(),
            text: violation.to_string(),
        }
    }
}

impl Session {
    /// Publishes the messages that these bytes complete, as far as the visit and the inbox allow.
    pub(super) fn decode_and_publish(&mut self, bytes: &mut [u8], tally: &mut Tally) -> Consumed {
        // Whatever the client sends shows that it lives.
        self.liveness.silent = None;
        let (decoded, outcome) = self.decode(bytes, tally);
        self.input.published = outcome.published;
        let received = &self.shared.metrics.websocket.received;
        received.inc_by(outcome.messages);
        let consumed = Consumed {
            bytes: *decoded.as_ref().unwrap_or(&bytes.len()),
            completed: outcome.completed,
        };
        if let Some(end) = outcome.end.or(decoded.err().map(End::from))
            && self.closing().is_none()
        {
            self.begin_close_with(end.reason, end.code, end.text);
        }
        consumed
    }

    fn decode(
        &mut self,
        bytes: &mut [u8],
        tally: &mut Tally,
    ) -> (Result<usize, Violation>, Outcome) {
        let limits = self.limits();
        let mut publisher = Publisher {
            shared: &self.shared,
            channel: self.membership.channel(),
            shape: self.output.recipient.format.shape,
            sender: self.output.recipient.sender,
            buffer: &mut self.output.buffer,
            answers: &mut self.input.answers,
            rates: self.input.rates.as_deref(),
            permit: &self.permit,
            tally,
            publication: None,
            is_charged: false,
            outcome: Outcome {
                published: self.input.published,
                ..Outcome::default()
            },
        };
        let decoded = self
            .input
            .decoder
            .decode_into(&limits, bytes, &mut publisher);
        (decoded, publisher.outcome)
    }

    /// Bounds of this client's frames. A message in JSON may be longer than its payload.
    fn limits(&self) -> Limits {
        let format = self.output.recipient.format;
        let max_message = self.shared.limits.max_message;
        Limits {
            deflate: format.deflate.is_some(),
            max_message: if format.shape == Shape::V1 {
                v1::max_frame(max_message)
            } else {
                max_message
            },
            ..self.shared.limits
        }
    }
}

impl Sink for Publisher<'_> {
    fn wants_more(&mut self) -> bool {
        let has_room = match &self.publication {
            Some(publication) => publication.has_room(),
            None => self.shared.hub.inbox().has_room_for(self.channel),
        };
        let owes_too_much = || {
            let answers = self.answers.as_ref();
            answers.is_some_and(|answers| answers.are_too_many())
        };
        has_room
            && self.outcome.end.is_none()
            && !self.tally.is_used_up()
            && self.buffer.held() < OWN_FRAMES_BYTES
            && !owes_too_much()
    }

    fn inflating(&mut self) -> Result<usize, Violation> {
        // Counted before it is inflated, so that a client over its rate costs no CPU.
        self.charge_message()?;
        self.is_charged = true;
        // Other clients publish while it is inflated.
        self.publication = None;
        let left = self.rates.map_or(u64::MAX, PublishRates::bytes_left);
        let left = left.try_into().unwrap_or(usize::MAX);
        Ok(if self.shape == Shape::V1 {
            v1::max_frame(left)
        } else {
            left
        })
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Message { kind, payload } => self.take_message(kind, payload),
            Event::Ping(payload) => self.buffer.push(ControlFrame::Pong(payload)),
            Event::Pong(_) => {}
            Event::Close(given) => {
                let (code, text) = given.unwrap_or((CloseReason::Client.code(), ""));
                self.outcome.end = Some(End {
                    reason: CloseReason::Client,
                    code,
                    text: text.to_owned(),
                });
            }
        }
    }
}

impl<'a> Publisher<'a> {
    fn take_message(&mut self, kind: Kind, payload: &[u8]) {
        let was_inflated = std::mem::take(&mut self.is_charged);
        if !was_inflated && let Err(violation) = self.charge_message() {
            self.outcome.end = Some(violation.into());
            return;
        }
        // Plain frames of raw messages cost next to nothing.
        if was_inflated || self.shape == Shape::V1 {
            self.tally.work += payload.len();
        }
        // Also if it is rejected below: the client has sent the rest of it in time.
        self.outcome.completed = true;
        match self.shape {
            Shape::V1 => self.take_json(kind, payload),
            _ => self.publish(kind, payload, None, None),
        }
    }

    fn take_json(&mut self, kind: Kind, frame: &[u8]) {
        if frame.len() >= LARGE_JSON {
            // Other clients publish while it is parsed.
            self.publication = None;
        }
        match v1::read(kind, frame, self.shared.limits.max_message) {
            Ok(Publish {
                kind,
                payload,
                reference,
                key,
            }) => {
                let receipt = reference.map(|reference| self.receipt(reference));
                self.publish(kind, &payload, key, receipt);
            }
            Err(unreadable) => self.reject(frame, &unreadable),
        }
    }

    /// Answers that a frame is no message. It counts like one, because it costs as much.
    fn reject(&mut self, frame: &[u8], Unreadable { why, reference }: &Unreadable) {
        let bytes = frame.len().min(self.shared.limits.max_message);
        if self.charge_bytes(bytes) {
            let error = v1::error(why, reference.as_deref());
            self.buffer.push_text(error.as_bytes());
        }
    }

    fn receipt(&mut self, reference: String) -> Receipt {
        let answers = self.answers.get_or_insert_with(Answers::new);
        answers.receipt(reference)
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
        // Logged where it is published, as the client sent it.
        if self.shared.log_messages {
            telemetry::log_message(self.channel.name.as_str(), kind, payload);
        }
        let (channel, inbox) = (self.channel, self.shared.hub.inbox());
        // The lock is taken with the first message of a read, and kept for the others.
        let publication = self
            .publication
            .get_or_insert_with(|| channel.publish(inbox));
        self.outcome.messages += 1;
        self.outcome.published = publication.push_with(kind, payload, self.sender, key, receipt);
    }

    fn charge_message(&mut self) -> Result<(), Violation> {
        if !self.permit.allows_message() {
            return Err(Violation::Rate(TOO_MANY_OF_ADDRESS));
        }
        if !self.rates.is_none_or(PublishRates::allows_message) {
            return Err(Violation::Rate(TOO_MANY_MESSAGES));
        }
        Ok(())
    }

    /// Whether so many bytes may come. If not, the connection ends.
    fn charge_bytes(&mut self, bytes: usize) -> bool {
        let is_allowed = self.rates.is_none_or(|rates| rates.allows_bytes(bytes));
        if !is_allowed {
            self.outcome.end = Some(Violation::Rate(TOO_MANY_BYTES).into());
        }
        is_allowed
    }
}
