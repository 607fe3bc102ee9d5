//! What was said and may not have arrived: kept until the server acknowledges or refuses it. When
//! it is sent, and what is told about it, is `resume`'s.

use std::collections::VecDeque;

use tokio_tungstenite::tungstenite::Message;

use super::v1;

/// Beyond it nothing more should be said.
const WINDOW_MESSAGES: usize = 1024;
const WINDOW_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Unacknowledged {
    /// In the order they were said.
    messages: VecDeque<Said>,
    /// Of all of them.
    bytes: usize,
    /// Begins each key of this process: no other's are the same.
    run: String,
    counter: u64,
}

#[derive(Debug)]
struct Said {
    reference: String,
    message: Message,
    /// Whether a server may have it already.
    sent: bool,
}

impl Unacknowledged {
    /// `run` is random: a number that no other client has.
    pub(crate) fn new(run: u128) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            run: format!("{run:032x}"),
            counter: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.messages.len() < WINDOW_MESSAGES && self.bytes < WINDOW_BYTES
    }

    pub(crate) fn push(&mut self, message: Message) {
        self.counter += 1;
        self.bytes += message.len();
        self.messages.push_back(Said {
            reference: self.counter.to_string(),
            message,
            sent: false,
        });
    }

    /// All of them as frames, again under the same keys if they were sent before.
    pub(crate) fn send(&mut self) -> impl Iterator<Item = Message> {
        self.send_from(0)
    }

    /// The last one as a frame.
    pub(crate) fn send_last(&mut self) -> impl Iterator<Item = Message> {
        self.send_from(self.messages.len().saturating_sub(1))
    }

    fn send_from(&mut self, first: usize) -> impl Iterator<Item = Message> {
        self.messages.range_mut(first..).map(|said| {
            said.sent = true;
            v1::said(
                &said.message,
                &said.reference,
                &format!("{}-{}", self.run, said.reference),
            )
        })
    }

    /// Takes out the one that the server has answered.
    pub(crate) fn settle(&mut self, reference: &str) -> Option<Message> {
        self.take(
            self.messages
                .iter()
                .position(|said| said.reference == reference)?,
        )
    }

    /// Takes out the biggest of those that a server has seen.
    pub(crate) fn take_biggest(&mut self) -> Option<Message> {
        let sent = self
            .messages
            .iter()
            .enumerate()
            .filter(|(_, said)| said.sent);
        self.take(sent.max_by_key(|(_, said)| said.message.len())?.0)
    }

    /// Takes out those that a server may have already.
    pub(crate) fn take_sent(&mut self) -> Vec<Message> {
        let mut taken = Vec::new();
        while let Some(at) = self.messages.iter().position(|said| said.sent) {
            taken.extend(self.take(at));
        }
        taken
    }

    /// Takes out all, as they were said.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Message> {
        self.bytes = 0;
        self.messages.drain(..).map(|said| said.message)
    }

    fn take(&mut self, at: usize) -> Option<Message> {
        let said = self.messages.remove(at)?;
        self.bytes -= said.message.len();
        Some(said.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_when_messages_are_settled() {
        let mut said = Unacknowledged::new(7);
        said.push(Message::text("x".repeat(WINDOW_BYTES)));
        assert!(!said.has_room());
        assert!(said.settle("2").is_none() && said.settle("1").is_some() && said.has_room());
        for _ in 0..WINDOW_MESSAGES {
            said.push(Message::text(""));
        }
        assert!(!said.has_room());
        assert_eq!(said.take_all().count(), WINDOW_MESSAGES);
        assert!(said.has_room() && said.len() == 0);
    }

    #[test]
    fn only_what_was_sent_is_given_up() {
        let mut said = Unacknowledged::new(7);
        for text in ["a", "bbb", "cc"] {
            said.push(Message::text(text));
        }
        assert_eq!(said.send().count(), 3);
        said.push(Message::text("never sent, and the biggest"));
        assert_eq!(said.take_biggest(), Some(Message::text("bbb")));
        assert_eq!(said.take_sent(), [Message::text("a"), Message::text("cc")]);
        assert_eq!((said.len(), said.take_biggest()), (1, None));
    }
}
