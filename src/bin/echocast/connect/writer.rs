//! The writing half of a connection, with its queue of messages.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) struct Writer {
    sink: SplitSink<Socket, Message>,
    /// Messages to be written.
    pub(super) queue: VecDeque<Message>,
    /// Whether something was written since the last flush.
    unflushed: bool,
}

impl Writer {
    pub(super) fn new(sink: SplitSink<Socket, Message>) -> Self {
        Self {
            sink,
            queue: VecDeque::new(),
            unflushed: false,
        }
    }

    /// Drops everything that is not written yet.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.unflushed = false;
    }

    /// Returns once the queue is written and flushed, and not before there was something to write.
    /// Cancellation-safe.
    pub(super) async fn flushed(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_written(cx))?;
        if !self.unflushed {
            return Poll::Pending;
        }
        // After the whole queue, so that many messages share a write.
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.queue.is_empty() {
            // A message leaves the queue only once the sink takes it, so cancelling loses none.
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.sink.start_send_unpin(message)?;
                self.unflushed = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}
