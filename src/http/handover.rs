//! Taking a socket away from the HTTP server: a request that is to become something else, such as
//! an event stream, calls [`Handover::take`] instead of answering. Earlier answers of the
//! connection are written first.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::exchange::Exchange;

/// A request's way to its connection's socket; in the request's extensions.
#[derive(Clone, Debug)]
pub struct Handover(Arc<Exchange>);

/// Goes on with the socket, and with the bytes that were read from it and belong to no request.
pub(super) struct Successor(Box<dyn FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send>);

impl Handover {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self(exchange)
    }

    /// Takes the socket as soon as earlier answers are written, without an answer to this request.
    /// `run` goes on with it in a task of its own, which is waited for when the node drains. This
    /// future does not end: it is dropped.
    pub async fn take<F>(self, run: F) -> Infallible
    where
        F: FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send + 'static,
    {
        self.0.offer(Successor(Box::new(run)));
        let _withdrawn = Withdrawn(&self.0);
        pending().await
    }
}

/// A request that is dropped before it has the socket wants it no longer.
struct Withdrawn<'a>(&'a Exchange);

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

impl Successor {
    pub(super) fn run(self, stream: TcpStream, early: Bytes) -> BoxFuture<'static, ()> {
        (self.0)(stream, early)
    }
}

impl fmt::Debug for Successor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Successor")
    }
}

#[cfg(test)]
mod tests;
