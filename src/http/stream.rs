//! The stream under the HTTP server: a TCP socket that gives up on a client which does not take its
//! answer, and then leaves nothing of that answer in the kernel. It also knows whether an answer is
//! still on its way, for a [`Handover`](super::handover::Handover), and notices a client that resets
//! the connection while it waits for its answer.
//!
//! The kernel accepts bytes long before the client does: see [`unsent`].

mod credit;
mod unsent;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::net::TcpStream;

use self::credit::Credit;
pub(super) use self::unsent::UNSENT_BYTES;
use super::exchange::Exchange;

/// An answer counts as flushed although this many bytes may still be unsent. It saves small answers
/// the system calls, and a client at the least rate takes them within seconds.
const UNCONFIRMED_BYTES: usize = 16 * 1024;

/// A connection of the HTTP server. Dropped while bytes are unsent, it is reset.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once the socket was taken out.
    io: Option<TokioIo<TcpStream>>,
    exchange: Arc<Exchange>,
    /// Bytes that the kernel has accepted, in all.
    written: u64,
    /// Those of them since all were known to be sent.
    unconfirmed: usize,
    /// The kernel's limit of unsent bytes is so low that the socket becomes writable only when all
    /// are sent.
    is_limited: bool,
    /// While something waits for the client.
    credit: Option<Box<Credit>>,
    /// The connection was closed in order.
    has_ended: bool,
}

impl Stream {
    pub(super) fn new(stream: TcpStream, exchange: Arc<Exchange>) -> Self {
        Self {
            io: Some(TokioIo::new(stream)),
            exchange,
            written: 0,
            unconfirmed: 0,
            is_limited: false,
            credit: None,
            has_ended: false,
        }
    }

    /// The socket, with its unsent bytes.
    pub(super) fn into_inner(mut self) -> Option<TcpStream> {
        self.io.take().map(TokioIo::into_inner)
    }

    /// The socket of a connection that was closed in order: only the client's side may still be
    /// open.
    pub(super) fn into_ended(self) -> Option<TcpStream> {
        if self.has_ended {
            self.into_inner()
        } else {
            None
        }
    }

    /// Lets the kernel accept bytes again as it does at first.
    fn unlimit(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_limited) {
            unsent::reset_limit(self.tcp()?)?;
        }
        Ok(())
    }

    fn io(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        let io = self.io.as_mut().map(Pin::new);
        io.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn tcp(&self) -> io::Result<&TcpStream> {
        let tcp = self.io.as_ref().map(TokioIo::inner);
        tcp.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Records the result of a write. An error if the write waits and the client's credit is used
    /// up.
    fn note(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.exchange.set_flushed(false);
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes as u64;
                self.unconfirmed += bytes;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => self.poll_credit(context).map(|error| error.map(|()| 0)),
        }
    }

    /// Ready, with an error, when the client has not taken enough for too long.
    fn poll_credit(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut credit = match self.credit.take() {
            Some(credit) => credit,
            None => Box::new(Credit::new(self.taken()?)),
        };
        while credit.poll_due(context).is_ready() {
            if !credit.look(self.taken()?) {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not take its answer",
                )));
            }
        }
        self.credit = Some(credit);
        Poll::Pending
    }

    /// An error if the client has reset the connection while its request is being answered. The
    /// HTTP server reads nothing then, so it would notice only when it writes the answer. But it
    /// flushes whenever it is polled.
    fn check_reset(&self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.exchange.is_answering() {
            return Ok(());
        }
        let tcp = self.tcp()?;
        // Wakes this task at a reset. Nothing is read: a client that only closed its side may wait
        // for its answer.
        if tcp.poll_read_ready(context)?.is_pending() {
            return Ok(());
        }
        match tcp.try_io(Interest::ERROR, || Ok(())) {
            Ok(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => Ok(()),
        }
    }

    /// Bytes that the client's side has taken: all that have left the kernel.
    fn taken(&self) -> io::Result<u64> {
        let unsent = unsent::unsent(self.tcp()?)?;
        Ok(self.written.saturating_sub(unsent))
    }

    /// Ready when the kernel has sent everything.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unconfirmed == 0 {
            return Poll::Ready(Ok(()));
        }
        self.is_limited = true;
        loop {
            let tcp = self.tcp()?;
            match tcp.poll_write_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return self.poll_credit(context),
            }
            match tcp.try_io(Interest::WRITABLE, || check_all_sent(tcp)) {
                Ok(()) => break,
                // The look has set the kernel's limit. The next poll registers for it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.unconfirmed = 0;
        Poll::Ready(self.unlimit())
    }
}

/// As [`TcpStream::try_io`] wants it: "would block" clears the socket's readiness.
fn check_all_sent(tcp: &TcpStream) -> io::Result<()> {
    if unsent::is_all_sent(tcp)? {
        Ok(())
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.io()?.poll_read(context, buffer);
        self.exchange.note_read(read.is_ready());
        read
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A limit that is left over from a flush would keep the socket from being writable.
        self.unlimit()?;
        let written = self.io()?.poll_write(context, bytes);
        self.note(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unlimit()?;
        let written = self.io()?.poll_write_vectored(context, slices);
        self.note(context, written)
    }

    /// An answer is flushed when next to nothing of it waits in the kernel. The next request is not
    /// read before.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_reset(context)?;
        if self.unconfirmed > UNCONFIRMED_BYTES {
            ready!(self.poll_sent(context))?;
        }
        self.credit = None;
        self.exchange.set_flushed(true);
        Poll::Ready(Ok(()))
    }

    /// Closes in order once everything is sent, so that the kernel keeps nothing for a client that
    /// does not read.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        self.credit = None;
        ready!(self.io()?.poll_shutdown(context))?;
        self.has_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(io) = &self.io else { return };
        if self.unconfirmed > 0 && !unsent::is_all_sent(io.inner()).unwrap_or(false) {
            // Closed in order, the kernel would keep what is unsent for minutes.
            reset(io.inner());
        }
    }
}

/// Makes the close of a connection a reset.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!("cannot reset a connection: {error}");
    }
}
