//! Taking a socket away from the HTTP server: a request that is to become something else, such as an event stream, calls
//! [`Handover::take`] instead of answering. Earlier answers of the connection are written first.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

/// A request's way to its connection's socket; in the request's extensions.
#[derive(Clone, Debug)]
pub struct Handover(Arc<Exchange>);

/// State that a connection's stream, its requests and its task share.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Nothing that was written waits in the kernel. Written by the stream.
    flushed: AtomicBool,
    /// The task that gets the socket. Written by a request, taken by the connection's task.
    successor: Mutex<Option<Successor>>,
}

/// Goes on with the socket, and with the bytes that were read from it and belong to no request.
pub(super) struct Successor(Box<dyn FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send>);

impl Handover {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self(exchange)
    }

    /// Takes the socket as soon as earlier answers are written, without an answer to this request. `run` goes on with it
    /// in a task of its own, which is waited for when the node drains. This future does not end: it is dropped.
    pub async fn take<F>(self, run: F) -> Infallible
    where
        F: FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send + 'static,
    {
        *self.0.successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(Successor(Box::new(run)));
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

impl Exchange {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { flushed: AtomicBool::new(true), successor: Mutex::default() })
    }

    pub(super) fn set_flushed(&self, flushed: bool) {
        self.flushed.store(flushed, Relaxed);
    }

    /// The task that gets the socket, if somebody wants it and nothing waits to be written. The connection's task asks after each
    /// poll of the HTTP server, which polls the request, so that no other wake is needed.
    pub(super) fn successor(&self) -> Option<Successor> {
        if !self.flushed.load(Relaxed) {
            return None;
        }
        self.withdraw()
    }

    /// The same, whether or not something waits to be written: the request is over.
    fn withdraw(&self) -> Option<Successor> {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner).take()
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
