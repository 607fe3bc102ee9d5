//! Taking a socket away from the HTTP server. A request that is to become something else, such as
//! an event stream, calls [`Handover::take`] instead of answering. Earlier answers of the
//! connection are written first.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::exchange::Exchange;
use super::successor::Successor;

/// A request's right to take its connection's socket; in the request's extensions.
#[derive(Clone, Debug)]
pub(super) struct Handover(Arc<Exchange>);

impl Handover {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self(exchange)
    }

    /// Takes the socket as soon as earlier answers are written, without an answer to this request.
    /// `run` goes on with it in a task of its own, and a drain waits for that task. This future
    /// never ends: it is dropped when the socket is taken.
    pub(super) async fn take<F>(self, run: F) -> Infallible
    where
        F: FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send + 'static,
    {
        self.0.offer(Successor::new(run));
        // A request that is dropped before it has the socket wants it no longer.
        let _withdrawal = Withdrawal(&self.0);
        pending().await
    }
}

/// Withdraws the offer when dropped.
struct Withdrawal<'a>(&'a Exchange);

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

#[cfg(test)]
mod tests;
