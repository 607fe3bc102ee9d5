//! Waits for the sockets of a load, and decides which connections are read next.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Context;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::connection::Connection;

/// Events that are taken from the system at once.
const EVENTS: usize = 1024;

pub(super) struct Sockets {
    /// Connections that subscribe; the publishers come first.
    pub(super) connections: Vec<Connection>,
    poll: Poll,
    events: Events,
    /// Connections to read in this turn. Empty between turns.
    readable: Vec<usize>,
    /// Connections that may have more to read, without another event.
    unfinished: Vec<usize>,
}

impl Sockets {
    /// The first `publishers` connections are also waited for when they are written.
    pub(super) fn new(connections: Vec<Connection>, publishers: usize) -> anyhow::Result<Self> {
        let mut sockets = Self {
            connections,
            poll: Poll::new().context("cannot wait for sockets")?,
            events: Events::with_capacity(EVENTS),
            readable: Vec::new(),
            unfinished: Vec::new(),
        };
        for index in 0..sockets.connections.len() {
            sockets.register(index, index < publishers)?;
        }
        Ok(sockets)
    }

    fn register(&mut self, index: usize, publishes: bool) -> anyhow::Result<()> {
        let interest = if publishes {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let stream = &mut self.connections[index].stream;
        let registry = self.poll.registry();
        registry.register(stream, Token(index), interest)?;
        Ok(())
    }

    /// Begins a turn: waits for events, at most for this time, and writes what they allow.
    pub(super) fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        let time = if self.unfinished.is_empty() {
            time
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(time)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(error).context("cannot wait for sockets");
            }
            _ => {}
        }
        self.readable.append(&mut self.unfinished);
        for event in &self.events {
            let index = event.token().0;
            on_event(&mut self.connections[index], event);
            self.readable.push(index);
        }
        Ok(())
    }

    /// The next connection to read in this turn. Each is read once and no more, because a flooded
    /// connection must not delay the others.
    pub(super) fn next_readable(&mut self) -> Option<usize> {
        self.readable.pop()
    }

    /// Puts a connection into the next turn, because it was not read to the end.
    pub(super) fn read_again(&mut self, index: usize) {
        self.unfinished.push(index);
    }
}

fn on_event(connection: &mut Connection, event: &Event) {
    if event.is_writable() {
        connection.flush();
    }
    if event.is_read_closed() || event.is_error() {
        connection.expect_end();
    }
}
