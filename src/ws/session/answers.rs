//! Answers to a client's messages, which clients of `echocast.v1` may ask for.

use std::task::{Context, Poll};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Session;
use super::input::OWN_FRAMES_BYTES;
use crate::hub::{Answer, Receipt};
use crate::ws::v1;

/// Messages of a client that wait for their answers before we no longer read from it.
const MAX_OWED: usize = 4 * 1024;

/// The answers of one client. Their channel needs no bound of its own, because it holds no more
/// than are owed.
#[derive(Debug)]
pub(super) struct Answers {
    sender: UnboundedSender<Answer>,
    receiver: UnboundedReceiver<Answer>,
    /// Messages whose answers are not in the write buffer yet.
    owed: usize,
}

impl Answers {
    pub(super) fn new() -> Box<Self> {
        let (sender, receiver) = unbounded_channel();
        Box::new(Self {
            sender,
            receiver,
            owed: 0,
        })
    }

    /// A receipt for a message. The broker answers it.
    pub(super) fn receipt(&mut self, reference: String) -> Receipt {
        self.owed += 1;
        Receipt {
            reference,
            answers: self.sender.clone(),
        }
    }

    /// Whether so many are owed that its client is not read from.
    pub(super) fn are_too_many(&self) -> bool {
        self.owed >= MAX_OWED
    }

    /// Whether some have come and are not in the write buffer.
    pub(super) fn have_come(&self) -> bool {
        !self.receiver.is_empty()
    }

    pub(super) fn are_owed(&self) -> bool {
        self.owed > 0
    }
}

impl Session {
    /// Puts answers into the write buffer, unless the client leaves too much unread.
    pub(super) fn pass_answers(&mut self, context: &mut Context<'_>) {
        if !self.may_push_frames() {
            return;
        }
        let Some(answers) = &mut self.input.answers else {
            return;
        };
        let buffer = &mut self.output.buffer;
        while buffer.held() < OWN_FRAMES_BYTES
            && let Poll::Ready(Some(answer)) = answers.receiver.poll_recv(context)
        {
            answers.owed -= 1;
            buffer.push_text(v1::answer(answer).as_bytes());
        }
    }
}
