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
    /// The first `publishers` connections also report when they can be written.
    pub(super) fn new(connections: Vec<Connection>, publishers: usize) -> anyhow::Result<Self> {
        let mut sockets = Self {
            connections,
            poll: Poll::new().context("cannot wait for sockets")?,
            events: Events::with_capacity(EVENTS),
            readable: Vec::new(),
            unfinished: Vec::new(),
        };
        sockets.register_all(publishers)?;
        Ok(sockets)
    }

    fn register_all(&mut self, publishers: usize) -> anyhow::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            let interest = interest(index < publishers);
            self.poll
                .registry()
                .register(&mut connection.stream, Token(index), interest)?;
        }
        Ok(())
    }

    /// Begins a turn: waits for events, at most for this time, and writes what they allow.
    pub(super) fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        // With something left to read, only look for events and do not wait.
        let is_idle = self.unfinished.is_empty();
        self.poll(if is_idle { time } else { Duration::ZERO })?;
        // Connections that were not read to the end get no event for it.
        self.readable.append(&mut self.unfinished);
        for event in &self.events {
            let index = event.token().0;
            on_event(&mut self.connections[index], event);
            self.readable.push(index);
        }
        Ok(())
    }

    fn poll(&mut self, time: Duration) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.events, Some(time)) {
            // A signal, and the next turn notices whether it was a stop.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            polled => polled.context("cannot wait for sockets"),
        }
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

/// Subscribers write nothing but pongs, so they need not report when they can be written.
fn interest(publishes: bool) -> Interest {
    if publishes {
        Interest::READABLE | Interest::WRITABLE
    } else {
        Interest::READABLE
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
