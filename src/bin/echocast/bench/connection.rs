//! One connection of a load: its socket, its read and write buffers, and the check of what it has
//! received. It knows frames, but not what is in them.

use std::io::{self, ErrorKind, Read, Write};

use bytes::{Buf, BytesMut};
use mio::net::TcpStream;

use super::dial::{LONGEST_ANSWER, Opened};
use super::dialect::HEARTBEAT_REPLY;
use super::frames::{self, CLOSE, Control, Next, PONG, Received, Shape, TEXT, put_frame};
use super::sequence::Sequence;

/// Bytes of one read: enough to keep up, and small enough for the caches of a processor.
const READ: usize = 256 * 1024;
/// With this many unwritten bytes we publish no more: the server is slower than the load.
const BACKLOG: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// Checks the messages of this connection.
    pub(super) sequence: Sequence,
    /// The beginning of a frame whose rest has not arrived.
    partial: Vec<u8>,
    /// Bytes still to come of a message that is not of this load.
    skip: usize,
    /// Frames to be written.
    output: BytesMut,
    /// The system has reported the end of the connection. Unread bytes may still be before it.
    ending: bool,
    /// Why the connection ended, if it did.
    ended: Option<String>,
}

/// A buffer that all connections of a load can share for reading.
pub(super) fn read_buffer(message: Shape) -> Vec<u8> {
    vec![0; message.longest_partial().max(LONGEST_ANSWER) + READ]
}

/// Result of one read.
pub(super) struct Filled {
    /// Bytes of the buffer that are to be scanned.
    pub(super) length: usize,
    /// Bytes of these that were read now.
    pub(super) new: usize,
    /// Whether there may be more to read at once.
    pub(super) more: bool,
}

impl Connection {
    pub(super) fn new(opened: Opened, publishers: usize) -> Self {
        Self {
            stream: TcpStream::from_std(opened.stream),
            sequence: Sequence::new(publishers),
            // The server may have sent messages right behind its answer.
            partial: opened.early,
            skip: 0,
            output: BytesMut::new(),
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

    /// Reads once, behind the partial frame. `None` if there is nothing to read, or no more.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Option<Filled> {
        if !self.is_open() {
            return None;
        }
        let partial = self.partial.len();
        // A frame must be in one piece to be parsed without copying its payload again.
        buffer[..partial].copy_from_slice(&self.partial);
        let new = self.read(&mut buffer[partial..partial + READ])?;
        Some(Filled {
            length: partial + new,
            new,
            // A full buffer means that there is more. So does an end, until it is read.
            more: new == READ || self.ending,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(0) => self.end("closed without a close frame"),
            Ok(new) => return Some(new),
            Err(error) => self.on_error(&error),
        }
        None
    }

    fn on_error(&mut self, error: &io::Error) {
        // The poll reports an event once the socket is ready.
        if error.kind() != ErrorKind::WouldBlock {
            self.end(&error.to_string());
        }
    }

    /// Scans what was read: passes each message of this shape to `on_message`, answers pings, and
    /// keeps a partial frame for later. Returns the number of messages of other shapes.
    #[inline]
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        message: Shape,
        mut on_message: impl FnMut(&mut Sequence, Received<'_>),
    ) -> u64 {
        let mut foreign = 0;
        // The rest of a foreign message from the last read comes first.
        let mut rest = self.skip_foreign(bytes);
        while let Some((next, used)) = self.next(rest, message) {
            // Of a foreign message only the header is used: its payload may be longer than the
            // buffer.
            rest = &rest[used..];
            match next {
                Next::Message(received) => on_message(&mut self.sequence, received),
                Next::Control(Control::Close(code)) => {
                    self.end(&closed_by_server(code));
                    return foreign;
                }
                Next::Control(control) => self.on_control(control),
                Next::Foreign(length) => {
                    foreign += 1;
                    self.skip = length;
                    rest = self.skip_foreign(rest);
                }
            }
        }
        // The next read continues behind it.
        self.keep(rest);
        foreign
    }

    /// The next frame, and how many bytes it takes. `None` if it is partial, or not allowed, which
    /// ends the connection.
    #[inline]
    fn next<'a>(&mut self, bytes: &'a [u8], message: Shape) -> Option<(Next<'a>, usize)> {
        match frames::next(bytes, message) {
            Ok(next) => next,
            Err(violation) => {
                self.end(violation);
                None
            }
        }
    }

    /// The bytes behind the foreign message that is being skipped.
    #[inline]
    fn skip_foreign<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        &bytes[skipped..]
    }

    /// Keeps the beginning of a frame until its rest is read.
    fn keep(&mut self, partial: &[u8]) {
        self.partial.clear();
        self.partial.extend_from_slice(partial);
    }

    fn on_control(&mut self, control: Control<'_>) {
        match control {
            Control::Ping(payload) => self.answer(PONG, payload),
            Control::Heartbeat => self.answer(TEXT, HEARTBEAT_REPLY),
            Control::Pong | Control::Close(_) => {}
        }
    }

    fn answer(&mut self, first: u8, payload: &[u8]) {
        put_frame(first, payload, &mut self.output);
        self.flush();
    }

    /// From now on it is read until it ends, because the system reports an end only once.
    pub(super) fn expect_end(&mut self) {
        self.ending = true;
    }

    /// Whether more may be published on it now.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.output.len() < BACKLOG
    }

    /// Where frames to be written go.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && self.is_open() {
            match self.stream.write(&self.output) {
                Ok(written) => self.output.advance(written),
                // Only a socket that is full leaves it open.
                Err(error) => return self.on_error(&error),
            }
        }
    }

    /// Sends a close frame, if the connection is still open. Its answer is not awaited.
    pub(super) fn close(&mut self) {
        self.answer(CLOSE, &1000_u16.to_be_bytes());
    }

    #[cold]
    fn end(&mut self, why: &str) {
        self.ended.get_or_insert_with(|| why.to_owned());
    }
}

fn closed_by_server(code: Option<u16>) -> String {
    match code {
        Some(code) => format!("closed by the server with {code}"),
        None => "closed by the server without a code".to_owned(),
    }
}
