//! The socket of a session. It remembers when the kernel had nothing to read or no room to write, and
//! tries again only after the poll set has reported a change.

mod transmission;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::task::Poll;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::SendFlags;
use socket2::SockRef;

/// A connected socket that does not block.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// There may be something to read.
    readable: bool,
    /// The kernel may take something.
    writable: bool,
    /// There is an end or an error to be read. No other event will report it.
    ended: bool,
}

impl Socket {
    /// Takes a socket over from the runtime.
    pub(super) fn new(stream: tokio::net::TcpStream) -> io::Result<Self> {
        let stream = TcpStream::from_std(stream.into_std()?);
        Ok(Self {
            stream,
            // Registering reports what can be read. Writing is tried at once.
            readable: false,
            writable: true,
            ended: false,
        })
    }

    /// Makes the poll set report changes, and the present state at first.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream
            .register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Remembers what the poll set reports. Returns whether that is a change.
    pub(super) fn note(&mut self, event: &Event) -> bool {
        let before = (self.readable, self.writable, self.ended);
        // An end or an error is found by reading or writing, so both are tried.
        self.ended |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.ended;
        self.writable |= event.is_writable() || self.ended;
        before != (self.readable, self.writable, self.ended)
    }

    /// Whether there may be something to read.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Reads once. No bytes are the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.readable {
            match self.stream.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                result => {
                    // A socket that gave less than it could is empty, which saves a read. The next
                    // event reports more bytes, but not an end that was reported already.
                    self.readable =
                        self.ended || !result.as_ref().is_ok_and(|bytes| *bytes < into.len());
                    return Poll::Ready(result);
                }
            }
        }
        Poll::Pending
    }

    /// Writes once.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while self.writable {
            let result = match slices {
                // `send` costs the kernel less than `writev`.
                [one] => rustix::net::send(&self.stream, one, SendFlags::NOSIGNAL)
                    .map_err(io::Error::from),
                many => self.stream.write_vectored(many),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The poll set reports when there is room again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                result => return Poll::Ready(result),
            }
        }
        Poll::Pending
    }

    /// Whether the client's machine has taken bytes within this time, and more wait for it. Not if
    /// nothing is sent because the client leaves what it has unread: its machine acknowledges the
    /// kernel's probes then, too.
    pub(super) fn is_being_taken(&self, within: Duration) -> bool {
        transmission::look(&self.stream).is_some_and(|now| {
            // Unsent bytes alone may only be held back by the client's full receive buffer.
            let sends = now.unacknowledged || (now.unsent && now.since_sent < within);
            sends && now.since_acknowledged < within
        })
    }

    /// Closing will reset the connection. The kernel then keeps no bytes that the client has not
    /// taken.
    pub(super) fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!("cannot reset a socket: {error}");
        }
    }

    /// Ends our side of the connection: nothing follows.
    pub(super) fn end(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}
