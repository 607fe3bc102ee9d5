//! The task that goes on with a connection's socket after the HTTP server.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

/// Goes on with the socket, and with the bytes read from it that belong to no request.
pub(super) struct Successor(Run);

type Run = Box<dyn FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send>;

impl Successor {
    pub(super) fn new<F>(run: F) -> Self
    where
        F: FnOnce(TcpStream, Bytes) -> BoxFuture<'static, ()> + Send + 'static,
    {
        Self(Box::new(run))
    }

    pub(super) fn run(self, stream: TcpStream, early: Bytes) -> BoxFuture<'static, ()> {
        (self.0)(stream, early)
    }
}

impl fmt::Debug for Successor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Successor")
    }
}
