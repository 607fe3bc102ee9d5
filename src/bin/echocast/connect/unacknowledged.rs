//! Messages that may not have arrived: kept until the server acknowledges or rejects them. When
//! they are sent is decided by `resume`.

use std::collections::VecDeque;

use tokio_tungstenite::tungstenite::Message;

use super::v1;

/// At this many messages or bytes, no more should be sent.
const WINDOW_MESSAGES: usize = 1024;
const WINDOW_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Unacknowledged {
    /// Oldest first.
    messages: VecDeque<Pending>,
    /// Bytes of all of them.
    bytes: usize,
    /// Prefix of every key of this process, which no other process has.
    run: String,
    counter: u64,
}

#[derive(Debug)]
struct Pending {
    /// The server acknowledges the message by it.
    reference: String,
    message: Message,
    /// Whether a server may have it already.
    sent: bool,
}

impl Unacknowledged {
    /// `run` is random, so that no other client has it.
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
        self.messages.push_back(Pending {
            reference: self.counter.to_string(),
            message,
            sent: false,
        });
    }

    /// All of them as frames. Those that were sent before have the same keys again.
    pub(crate) fn send_all(&mut self) -> impl Iterator<Item = Message> {
        self.send_from(0)
    }

    /// The last one as a frame.
    pub(crate) fn send_last(&mut self) -> impl Iterator<Item = Message> {
        self.send_from(self.messages.len().saturating_sub(1))
    }

    fn send_from(&mut self, first: usize) -> impl Iterator<Item = Message> {
        let run = &self.run;
        self.messages.range_mut(first..).map(move |pending| {
            // From here on a server may have it, even if the connection is lost.
            pending.sent = true;
            let key = format!("{run}-{}", pending.reference);
            v1::publish(&pending.message, &pending.reference, &key)
        })
    }

    /// Takes out the message that the server has answered.
    pub(crate) fn settle(&mut self, reference: &str) -> Option<Message> {
        let index = self
            .messages
            .iter()
            .position(|pending| pending.reference == reference)?;
        self.take(index)
    }

    /// Takes out the biggest of the messages that a server may have seen.
    pub(crate) fn take_biggest_sent(&mut self) -> Option<Message> {
        let sent = self.messages.iter().enumerate();
        let sent = sent.filter(|(_, pending)| pending.sent);
        let (biggest, _) = sent.max_by_key(|(_, pending)| pending.message.len())?;
        self.take(biggest)
    }

    /// Takes out the messages that a server may have already.
    pub(crate) fn take_sent(&mut self) -> Vec<Message> {
        let mut taken = Vec::new();
        while let Some(index) = self.messages.iter().position(|pending| pending.sent) {
            taken.extend(self.take(index));
        }
        taken
    }

    /// Takes out all messages.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Message> {
        self.bytes = 0;
        self.messages.drain(..).map(|pending| pending.message)
    }

    fn take(&mut self, index: usize) -> Option<Message> {
        let pending = self.messages.remove(index)?;
        self.bytes -= pending.message.len();
        Some(pending.message)
    }
}

/// For people, at the end: how many messages may be lost.
pub(crate) fn warning(unacknowledged: usize) -> Option<String> {
    match unacknowledged {
        0 => None,
        1 => Some("1 message was not acknowledged: it may not have arrived".to_owned()),
        count => Some(format!(
            "{count} messages were not acknowledged: they may not have arrived"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_when_messages_are_settled() {
        let mut pending = Unacknowledged::new(7);
        pending.push(Message::text("x".repeat(WINDOW_BYTES)));
        assert!(!pending.has_room());
        assert!(
            pending.settle("2").is_none() && pending.settle("1").is_some() && pending.has_room()
        );
        for _ in 0..WINDOW_MESSAGES {
            pending.push(Message::text(""));
        }
        assert!(!pending.has_room());
        assert_eq!(pending.take_all().count(), WINDOW_MESSAGES);
        assert!(pending.has_room() && pending.len() == 0);
    }

    #[test]
    fn only_messages_that_were_sent_are_given_up() {
        let mut pending = Unacknowledged::new(7);
        for text in ["a", "bbb", "cc"] {
            pending.push(Message::text(text));
        }
        assert_eq!(pending.send_all().count(), 3);
        pending.push(Message::text("never sent, and the biggest"));
        assert_eq!(pending.take_biggest_sent(), Some(Message::text("bbb")));
        assert_eq!(
            pending.take_sent(),
            [Message::text("a"), Message::text("cc")]
        );
        assert_eq!((pending.len(), pending.take_biggest_sent()), (1, None));
    }
}
