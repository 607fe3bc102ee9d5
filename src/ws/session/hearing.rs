//! What a session takes in: bytes from its socket, and answers to what it said.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use tokio::sync::mpsc::unbounded_channel;

use super::{Answers, CloseReason, Closing, Control, Ended, Session, Shared, Step};
use crate::hub::{Channel, Publication, Receipt};
use crate::message::{Kind, Shape};
use crate::telemetry;
use crate::ws::frame::{self, Event, Limits};
use crate::ws::v1::{self, Said, Unreadable};

/// One read takes this much at most. The buffer is the worker thread's, not the session's.
const READ_BYTES: usize = 64 * 1024;

/// Frames of its own that a client may leave unread before we no longer read from it.
const CONTROL_BYTES: usize = 4 * 1024;

thread_local! {
    /// Where sockets are read into; nothing in it outlives one call.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

impl Session {
    /// Reads once; pending if there is nothing to read or no reading now.
    pub(super) fn read(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended, Poll<()>> {
        if self.closing.is_some() {
            return self.discard();
        }
        if !self.socket.is_readable() && self.early.is_none() {
            return ControlFlow::Continue(Poll::Pending);
        }
        // A client that does not read its pongs and answers gets no new ones: its socket is looked at again once they are
        // written.
        let all_passed = self.answers.as_ref().is_none_or(|answers| answers.receiver.is_empty());
        let may_read = all_passed
            && self.control.held() < CONTROL_BYTES
            && self.shared.hub.inbox().may_read(context, &mut self.inbox_round);
        if !may_read {
            return ControlFlow::Continue(Poll::Pending);
        }
        if let Some(early) = self.early.take() {
            self.hear(&mut Vec::from(*early));
            return ControlFlow::Continue(Poll::Ready(()));
        }
        SCRATCH.with_borrow_mut(|scratch| match self.socket.read(scratch) {
            Poll::Pending => ControlFlow::Continue(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(bytes)) => {
                self.hear(&mut scratch[..bytes]);
                ControlFlow::Continue(Poll::Ready(()))
            }
        })
    }

    /// Throws away what a client says after the end began, and notices when it hangs up.
    fn discard(&mut self) -> ControlFlow<Ended, Poll<()>> {
        let Some(Closing { reason, step, hung_up, .. }) = self.closing.as_deref() else {
            return ControlFlow::Continue(Poll::Pending);
        };
        let (reason, step, hung_up) = (*reason, *step, *hung_up);
        let ended = hung_up
            || match SCRATCH.with_borrow_mut(|scratch| self.socket.read(scratch)) {
                Poll::Pending => return ControlFlow::Continue(Poll::Pending),
                Poll::Ready(Ok(bytes)) => bytes == 0,
                Poll::Ready(Err(_)) => return ControlFlow::Break(reason),
            };
        match (ended, &mut self.closing) {
            (true, _) if step == Step::Linger => ControlFlow::Break(reason),
            (true, Some(closing)) => {
                closing.hung_up = true;
                ControlFlow::Continue(Poll::Pending)
            }
            _ => ControlFlow::Continue(Poll::Ready(())),
        }
    }

    /// Takes in bytes from the client.
    fn hear(&mut self, bytes: &mut [u8]) {
        if let Some((reason, code, text)) = self.publish(bytes) {
            self.begin_close_with(reason, code, text);
        }
    }

    /// Says on the channel what the client said; returns how it ends, if it does.
    fn publish(&mut self, bytes: &mut [u8]) -> Option<(CloseReason, u16, String)> {
        let Self { shared, membership, decoder, control, said, rate, reader, answers, .. } = self;
        let channel = membership.channel();
        shared.metrics.websocket.received_bytes.inc_by(bytes.len() as u64);
        self.silent_visits = None;
        let mut end = None;
        let mut publication = None;
        let mut limits = Limits { deflate: reader.format.deflate.is_some(), ..shared.limits };
        if reader.format.shape == Shape::V1 {
            limits.max_message = v1::max_frame(limits.max_message);
        }
        let outcome = decoder.decode(&limits, bytes, |event| match event {
            // What follows a broken limit or a close is not heard.
            _ if end.is_some() => {}
            Event::Message { .. } if rate.as_deref_mut().is_some_and(|rate| !rate.allows()) => {
                end = Some((CloseReason::Rate, CloseReason::Rate.code(), "too many messages a second".to_owned()));
            }
            Event::Message { kind, payload } => {
                let publication = publication.get_or_insert_with(|| channel.publish(shared.hub.inbox()));
                let mut speaking = Speaking { shared, control, publication, sender: reader.sender };
                let number = match reader.format.shape {
                    Shape::V1 => speaking.say_v1(channel, kind, payload, answers),
                    _ => Some(speaking.say(channel, kind, payload)),
                };
                *said = number.unwrap_or(*said);
            }
            Event::Ping(payload) => control.push(frame::Control::Pong(payload)),
            Event::Pong(_) => {}
            Event::Close(given) => {
                let (code, text) = given.unwrap_or((CloseReason::Client.code(), ""));
                end = Some((CloseReason::Client, code, text.to_owned()));
            }
        });
        if let Some(publication) = publication {
            shared.metrics.websocket.received.inc_by(publication.messages() as u64);
        }
        end.or_else(|| outcome.err().map(|bad| (bad.into(), bad.close_code(), bad.to_string())))
    }

    /// Tells the client what became of its messages, unless it leaves too much unread.
    pub(super) fn pass_answers(&mut self, context: &mut Context<'_>) {
        if !self.reads_on() {
            // Nothing follows a close.
            return;
        }
        let Some(answers) = &mut self.answers else { return };
        while self.control.held() < CONTROL_BYTES
            && let Poll::Ready(Some(answer)) = answers.receiver.poll_recv(context)
        {
            answers.owed -= 1;
            self.control.push_text(v1::answer(answer).as_bytes());
        }
    }
}

/// A client saying what it has just sent.
struct Speaking<'a, 'b> {
    shared: &'a Shared,
    control: &'a mut Control,
    publication: &'a mut Publication<'b>,
    sender: u32,
}

impl Speaking<'_, '_> {
    /// Says a message; returns its number.
    fn say(&mut self, channel: &Channel, kind: Kind, payload: &[u8]) -> u64 {
        self.log(channel, kind, payload);
        self.publication.push(kind, payload, self.sender)
    }

    /// The same for one in JSON. What is none is answered at once.
    fn say_v1(
        &mut self,
        channel: &Channel,
        kind: Kind,
        frame: &[u8],
        answers: &mut Option<Box<Answers>>,
    ) -> Option<u64> {
        match v1::read(kind, frame, self.shared.limits.max_message) {
            Ok(Said { kind, payload, reference, key }) => {
                self.log(channel, kind, &payload);
                let receipt = reference.map(|reference| {
                    let answers = answers.get_or_insert_with(|| {
                        let (sender, receiver) = unbounded_channel();
                        Box::new(Answers { sender, receiver, owed: 0 })
                    });
                    answers.owed += 1;
                    Receipt { reference, answers: answers.sender.clone() }
                });
                Some(self.publication.push_with(kind, &payload, self.sender, key, receipt))
            }
            Err(Unreadable { why, reference }) => {
                self.control.push_text(v1::error(&why, reference.as_deref()).as_bytes());
                None
            }
        }
    }

    fn log(&self, channel: &Channel, kind: Kind, payload: &[u8]) {
        if self.shared.log_messages {
            telemetry::log_message(channel.name.as_str(), kind, payload);
        }
    }
}
