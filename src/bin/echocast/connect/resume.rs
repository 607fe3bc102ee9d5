//! The state that outlives a connection: the position in the channel, and messages that are not
//! acknowledged.
//!
//! With it the next connection resumes without loss or repetition, if the server speaks
//! `echocast.v1`. With other servers everything is passed on as it is. Pure: frames in, frames and
//! events out.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use super::event::Event;
use super::position::Position;
use super::unacknowledged::Unacknowledged;
use super::v1::{self, Frame, Id};

/// A server may ask for no longer wait than this.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Close code for a message that is too big.
const TOO_BIG: u16 = 1009;

type Queue = VecDeque<Message>;

#[derive(Debug)]
pub(crate) struct Resume {
    state: State,
    /// Whether the server sends us our own messages, too.
    has_echo: bool,
    position: Position,
    /// Whether this goes on from an earlier connection.
    continues: bool,
    unacknowledged: Unacknowledged,
    /// How long the server asks us to stay away.
    retry: Option<Duration>,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Without a connection, or before its welcome. Messages are kept.
    Waiting,
    /// The server speaks `echocast.v1`, and acknowledges.
    Open,
    /// Any server: one message, one frame.
    Raw,
}

impl Resume {
    /// `run` is random, so that no other client has it.
    pub(crate) fn new(has_echo: bool, run: u128) -> Self {
        Self {
            state: State::Waiting,
            has_echo,
            position: Position::default(),
            continues: false,
            unacknowledged: Unacknowledged::new(run),
            retry: None,
        }
    }

    /// The message behind which the next connection is to begin.
    pub(crate) fn since(&self) -> Option<&Id> {
        self.position.newest()
    }

    /// The next connection begins anew, and may repeat messages.
    pub(crate) fn forget_position(&mut self) {
        self.position = Position::default();
        self.continues = false;
    }

    pub(crate) fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.unacknowledged.has_room()
    }

    /// Whether a lost connection loses nothing.
    pub(crate) fn resumes(&self) -> bool {
        self.state != State::Raw
    }

    /// A connection is open. `v1`: the server speaks `echocast.v1`.
    pub(crate) fn opened(&mut self, v1: bool, queue: &mut Queue) -> Vec<Event> {
        if v1 {
            // Everything else is done once the welcome arrives.
            self.state = State::Waiting;
            return Vec::new();
        }
        self.state = State::Raw;
        self.opened_raw(queue)
    }

    fn opened_raw(&mut self, queue: &mut Queue) -> Vec<Event> {
        // A raw server keeps nothing, so messages since the last connection are gone.
        let missing = self.continues.then_some(Event::Missing(None));
        self.forget_position();
        let events = missing.into_iter().chain(self.give_up_sent()).collect();
        // Nothing will be acknowledged, so nothing is kept.
        queue.extend(self.unacknowledged.take_all());
        events
    }

    /// The connection has ended. Returns how long the server asked us to stay away, if it did.
    pub(crate) fn ended(&mut self) -> Option<Duration> {
        self.state = State::Waiting;
        self.retry.take()
    }

    pub(crate) fn send(&mut self, message: Message, queue: &mut Queue) {
        if self.state == State::Raw {
            return queue.push_back(message);
        }
        self.unacknowledged.push(message);
        // Before the welcome nothing is sent, because it decides what may be sent again.
        if self.state == State::Open {
            queue.extend(self.unacknowledged.send_last());
        }
    }

    /// Handles a message from the server.
    pub(crate) fn receive(&mut self, message: Message, queue: &mut Queue) -> Vec<Event> {
        match self.parse(&message) {
            Some(frame) => self.on_frame(frame, queue),
            None => vec![Event::Received(message)],
        }
    }

    fn parse(&self, message: &Message) -> Option<Frame> {
        match message {
            Message::Text(text) if self.state != State::Raw => v1::parse(text),
            _ => None,
        }
    }

    fn on_frame(&mut self, frame: Frame, queue: &mut Queue) -> Vec<Event> {
        match frame {
            Frame::Welcome { id } => self.on_welcome(id, queue),
            Frame::Message { id, message } => self.on_message(id.as_ref(), message),
            Frame::Gap { missed } => vec![Event::Missing(missed)],
            Frame::Ack { reference, id } => self.on_ack(&reference, id),
            Frame::Error { why, reference } => vec![self.on_error(why, reference.as_deref())],
            Frame::Drain { retry } => {
                self.retry = Some(retry.min(LONGEST_RETRY));
                Vec::new()
            }
            Frame::Unknown => Vec::new(),
        }
    }

    fn on_welcome(&mut self, id: Option<Id>, queue: &mut Queue) -> Vec<Event> {
        let mut events = Vec::new();
        // We named no message to resume after, so the server cannot know that some are missing.
        if self.continues && self.position.newest().is_none() {
            events.push(Event::Missing(None));
        }
        // Without a history the server keeps no keys, so a message that is sent again might be
        // published twice.
        if id.is_none() {
            events.extend(self.give_up_sent());
        }
        // Messages up to the id may still follow, if we asked for them.
        self.position.begin_at(id);
        self.continues = true;
        self.state = State::Open;
        // In their old order, in front of anything new.
        queue.extend(self.unacknowledged.send_all());
        events
    }

    fn on_message(&mut self, id: Option<&Id>, message: Message) -> Vec<Event> {
        // A message that did not come through the service has no id, and so no position.
        if id.is_none_or(|id| self.position.receive(id)) {
            vec![Event::Received(message)]
        } else {
            Vec::new()
        }
    }

    fn on_ack(&mut self, reference: &str, id: Option<Id>) -> Vec<Event> {
        // With an echo, the message moves the position when it is received.
        if let Some(id) = id.filter(|_| !self.has_echo) {
            self.position.skip(id);
        }
        let settled = self.unacknowledged.settle(reference);
        let event = settled.map(|_| Event::Acknowledged);
        event.into_iter().collect()
    }

    fn on_error(&mut self, why: String, reference: Option<&str>) -> Event {
        let message = reference.and_then(|reference| self.unacknowledged.settle(reference));
        Event::NotPublished { message, why }
    }

    /// The server closes the connection. If a message was too big, the biggest one is given up.
    /// Otherwise it would end every later connection, too.
    pub(crate) fn closed(&mut self, code: u16) -> Option<Event> {
        if code != TOO_BIG {
            return None;
        }
        // The server does not say which message it was, but the biggest one is too big for sure.
        let biggest = self.unacknowledged.take_biggest_sent()?;
        Some(Event::NotPublished {
            message: Some(biggest),
            why: "too big for this server".to_owned(),
        })
    }

    /// Gives up messages that can no longer be acknowledged.
    fn give_up_sent(&mut self) -> impl Iterator<Item = Event> + use<> {
        self.unacknowledged
            .take_sent()
            .into_iter()
            .map(Event::Doubtful)
    }
}

#[cfg(test)]
mod tests;
