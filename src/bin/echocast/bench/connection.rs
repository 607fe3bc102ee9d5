//! One connection of a load: its socket, the frame that has not arrived whole, what could not be
//! written yet, and what it has heard. Knows frames, but not what is in them.

use std::io::{ErrorKind, Read, Write};

use bytes::{Buf, BytesMut};
use mio::net::TcpStream;

use super::dial::{LONGEST_ANSWER, Opened};
use super::dialect::ALIVE;
use super::frames::{self, CLOSE, Next, PONG, Shape, TEXT, put_frame};
use super::truth::Truth;

/// Read at once, in bytes: enough to keep up, and small enough for processor caches.
const READ: usize = 256 * 1024;
/// With this much unwritten nothing more is said, in bytes: the server is slower than the load.
const BACKLOG: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) truth: Truth,
    /// The beginning of a frame whose rest has not arrived.
    kept: Vec<u8>,
    /// Bytes to come of a message that is not ours.
    skip: usize,
    out: BytesMut,
    /// The system has told of its end, which is behind what can still be read.
    ending: bool,
    /// Why it ended, if it did.
    ended: Option<String>,
}

/// A buffer that every connection of a load can read with.
pub(super) fn buffer(message: Shape) -> Vec<u8> {
    vec![0; message.longest_kept().max(LONGEST_ANSWER) + READ]
}

/// What a read brought: bytes in the buffer that are to be looked at, and bytes that are new.
pub(super) struct Filled {
    pub(super) length: usize,
    pub(super) new: usize,
    /// Whether there may be more at once.
    pub(super) more: bool,
}

impl Connection {
    pub(super) fn new(opened: Opened, truth: Truth) -> Self {
        Self {
            stream: TcpStream::from_std(opened.stream),
            truth,
            kept: opened.early,
            skip: 0,
            out: BytesMut::new(),
            ending: false,
            ended: None,
        }
    }

    /// Why it ended, if it did.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    pub(super) fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Reads once, behind what was kept. `None` if there is nothing or the connection has ended.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Option<Filled> {
        if !self.is_open() {
            return None;
        }
        let kept = self.kept.len();
        buffer[..kept].copy_from_slice(&self.kept);
        match self.stream.read(&mut buffer[kept..kept + READ]) {
            Ok(0) => self.end("closed without a word"),
            Ok(new) => {
                return Some(Filled {
                    length: kept + new,
                    new,
                    more: new == READ || self.ending,
                });
            }
            // An event will tell when there is something.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end(&error.to_string()),
        }
        None
    }

    /// Looks through what was read, hands over each message of that shape and whether it is
    /// deflated, answers pings, and keeps the rest. Returns how many messages of other shapes there
    /// were.
    #[inline]
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        message: Shape,
        mut hear: impl FnMut(&mut Truth, &[u8], bool),
    ) -> u64 {
        let mut foreign = 0;
        let mut rest = bytes.split_at(self.skip.min(bytes.len())).1;
        self.skip -= bytes.len() - rest.len();
        loop {
            let (next, used) = match frames::next(rest, message) {
                Ok(found) => found,
                Err(violation) => {
                    self.end(violation);
                    return foreign;
                }
            };
            rest = &rest[used..];
            match next {
                Next::Message(payload) => hear(&mut self.truth, payload, false),
                Next::Deflated(payload) => hear(&mut self.truth, payload, true),
                Next::Foreign(length) => {
                    foreign += 1;
                    let here = length.min(rest.len());
                    rest = &rest[here..];
                    self.skip = length - here;
                }
                Next::Ping(payload) => {
                    put_frame(PONG, payload, &mut self.out);
                    self.flush();
                }
                Next::Heartbeat => {
                    put_frame(TEXT, ALIVE, &mut self.out);
                    self.flush();
                }
                Next::Pong => {}
                Next::Close(code) => {
                    let code = code.map_or_else(
                        || "without a code".to_owned(),
                        |code| format!("with {code}"),
                    );
                    self.end(&format!("closed by the server {code}"));
                    return foreign;
                }
                Next::Incomplete => {
                    self.kept.clear();
                    self.kept.extend_from_slice(rest);
                    return foreign;
                }
            }
        }
    }

    /// From now on it is read until it has ended: the system does not tell twice.
    pub(super) fn expect_end(&mut self) {
        self.ending = true;
    }

    /// Whether more may be said now.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.out.len() < BACKLOG
    }

    /// Where frames to be written go.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) {
        while !self.out.is_empty() && self.is_open() {
            match self.stream.write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.end(&error.to_string()),
            }
        }
    }

    /// Takes leave, as far as there is still somebody to hear it.
    pub(super) fn say_goodbye(&mut self) {
        put_frame(CLOSE, &1000_u16.to_be_bytes(), &mut self.out);
        self.flush();
    }

    #[cold]
    fn end(&mut self, why: &str) {
        self.ended.get_or_insert_with(|| why.to_owned());
    }
}
