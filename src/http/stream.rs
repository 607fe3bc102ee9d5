//! The stream under the HTTP server: a TCP socket that gives up on a client which does not take its
//! answer, and then leaves nothing of that answer in the kernel. It also knows whether an answer is
//! still on its way, for a [`Handover`](super::handover::Handover).
//!
//! The kernel accepts bytes long before the client does. How many it has not sent yet is found out
//! with `TCP_NOTSENT_LOWAT`: a socket with that option counts as writable only while fewer bytes
//! than that are unsent.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::exchange::Exchange;
use crate::client::rate::LEAST_RATE;

/// Bytes that the kernel may hold unsent on one connection before it takes no more. A pong or a
/// ping waits behind them, and behind the rest of the write that passed this limit: on 64 kbit/s
/// for 4 s, and for up to 8 s more.
///
/// Deliveries a second on one hot channel (millions of 64 bytes to 100 clients, thousands of 8 KiB
/// to 40; means of three runs that differ by up to 8 and 20 in 100): 4.2 and 514 with 128 KiB, 4.2
/// and 479 with 64 KiB, 4.1 and 531 with 32 KiB,
/// 4.0 and 466 with 16 KiB.
pub(super) const UNSENT_BYTES: u32 = 32 * 1024;

/// How long a client may take nothing at all of what waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks at least: a look takes some twenty system calls.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes whose sending is not confirmed yet: so many may stay behind when an answer counts as
/// flushed. It saves small answers the system calls, and a client at the least rate takes them
/// within seconds.
const UNCONFIRMED_BYTES: usize = 16 * 1024;

/// More than the kernel can hold unsent on one connection: `net.ipv4.tcp_wmem` ends at 4 MiB.
const MOST_UNSENT: u64 = 8 * 1024 * 1024;

/// A connection of the HTTP server. Dropped while bytes are unsent, it is reset.
#[derive(Debug)]
pub struct Stream {
    /// `None` once it was taken out.
    io: Option<TokioIo<TcpStream>>,
    exchange: Arc<Exchange>,
    /// Bytes that the kernel has accepted, in all.
    written: u64,
    /// Those of them since all were known to be sent.
    unconfirmed: usize,
    /// The kernel takes next to nothing more, so that it tells when everything is sent.
    limited: bool,
    /// While the client is waited for.
    wait: Option<Pin<Box<Wait>>>,
    /// The client was told that nothing follows.
    ended: bool,
}

/// Progress of a client that something waits for.
#[derive(Debug)]
struct Wait {
    /// Rings when nothing of its credit would be left.
    timer: Pin<Box<Sleep>>,
    /// When `taken` and `credit` were found out.
    looked: Instant,
    /// Bytes that had left the kernel by then.
    taken: u64,
    /// Time for which the client may take nothing, at most [`PATIENCE`]: bytes that it takes add to
    /// it.
    credit: Duration,
}

impl Stream {
    pub(super) fn new(stream: TcpStream, exchange: Arc<Exchange>) -> Self {
        let io = Some(TokioIo::new(stream));
        Self {
            io,
            exchange,
            written: 0,
            unconfirmed: 0,
            limited: false,
            wait: None,
            ended: false,
        }
    }

    /// The socket; what is unsent stays with it.
    pub fn into_inner(mut self) -> Option<TcpStream> {
        self.io.take().map(TokioIo::into_inner)
    }

    /// The socket of a connection that was closed in order: only the client's side may still be
    /// open.
    pub(super) fn into_ended(self) -> Option<TcpStream> {
        if self.ended { self.into_inner() } else { None }
    }

    /// Lets the kernel take bytes again as it does at first.
    fn unlimit(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.limited) {
            set_unsent_limit(self.tcp()?, UNSENT_BYTES)?;
        }
        Ok(())
    }

    fn io(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        self.io
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn tcp(&self) -> io::Result<&TcpStream> {
        self.io
            .as_ref()
            .map(TokioIo::inner)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Records the result of a write; an error if it waits and the client's credit is used up.
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
            Poll::Pending => self.poll_patience(context).map(|error| error.map(|()| 0)),
        }
    }

    /// Ready, with an error, when the client has not taken enough for too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wait = self.wait.take();
        let result = loop {
            let wait = match &mut wait {
                Some(wait) => wait,
                none => none.insert(Box::pin(Wait::new(self.taken()?))),
            };
            if wait.timer.as_mut().poll(context).is_pending() {
                break Poll::Pending;
            }
            if !wait.look(self.taken()?) {
                break Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not take its answer",
                )));
            }
        };
        self.wait = wait;
        result
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

    /// Bytes that have left the kernel.
    fn taken(&self) -> io::Result<u64> {
        Ok(self.written.saturating_sub(unsent(self.tcp()?)?))
    }

    /// Ready when the kernel has sent everything.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unconfirmed == 0 {
            return Poll::Ready(Ok(()));
        }
        self.limited = true;
        loop {
            let tcp = self.tcp()?;
            match tcp.poll_write_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return self.poll_patience(context),
            }
            let look = || {
                if is_all_sent(tcp)? {
                    Ok(())
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            };
            match tcp.try_io(Interest::WRITABLE, look) {
                Ok(()) => break,
                // The look has asked the kernel to tell when it changes.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.unconfirmed = 0;
        Poll::Ready(self.unlimit())
    }
}

impl Wait {
    fn new(taken: u64) -> Self {
        Self {
            timer: Box::pin(sleep(PATIENCE)),
            looked: Instant::now(),
            taken,
            credit: PATIENCE,
        }
    }

    /// Looks at what the client has taken since the last look; returns whether it may go on.
    fn look(&mut self, taken: u64) -> bool {
        let now = Instant::now();
        let bytes = taken.saturating_sub(self.taken);
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
        self.credit = (self.credit + earned)
            .saturating_sub(now - self.looked)
            .min(PATIENCE);
        (self.looked, self.taken) = (now, taken);
        self.timer
            .as_mut()
            .reset(now + self.credit.max(LOOK_INTERVAL));
        !self.credit.is_zero()
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
        self.wait = None;
        self.exchange.set_flushed(true);
        Poll::Ready(Ok(()))
    }

    /// Closes in order once everything is sent, so that the kernel keeps nothing for a client that
    /// does not read.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        self.wait = None;
        ready!(self.io()?.poll_shutdown(context))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(io) = &self.io else { return };
        if self.unconfirmed > 0 && !is_all_sent(io.inner()).unwrap_or(false) {
            // Closed in order, the kernel would keep what is unsent for minutes.
            reset(io.inner());
        }
    }
}

/// Makes the close of a connection a reset.
pub fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!("cannot reset a connection: {error}");
    }
}

/// Bytes that the kernel has accepted and not sent yet, rounded up to whole 4 KiB.
fn unsent(stream: &TcpStream) -> io::Result<u64> {
    let step = LEAST_RATE;
    let (mut low, mut high) = (0, MOST_UNSENT / step);
    while low < high {
        let middle = low.midpoint(high);
        if has_less_unsent(stream, middle * step + 1)? {
            high = middle
        } else {
            low = middle + 1
        }
    }
    set_unsent_limit(stream, UNSENT_BYTES)?;
    Ok(low * step)
}

fn is_all_sent(stream: &TcpStream) -> io::Result<bool> {
    has_less_unsent(stream, 1)
}

/// Whether fewer than so many bytes are unsent. The limit stays set; if they are not, the kernel
/// tells when they are.
fn has_less_unsent(stream: &TcpStream, bytes: u64) -> io::Result<bool> {
    // It is writable while twice the unsent bytes are fewer than the limit.
    set_unsent_limit(stream, u32::try_from(bytes * 2 - 1).unwrap_or(u32::MAX))?;
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO)?;
    let [polled] = polled;
    // An error or a reset counts as well: nothing is left to wait for.
    Ok(polled.any().unwrap_or(true))
}

#[cfg(target_os = "linux")]
fn set_unsent_limit(stream: &TcpStream, bytes: u32) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(bytes)
}

#[cfg(not(target_os = "linux"))]
fn set_unsent_limit(_stream: &TcpStream, _bytes: u32) -> io::Result<()> {
    Ok(())
}
