//! One HTTP/1.1 connection from accept to close. The router writes the answers. A request may take
//! the socket for something else, and then the connection's task ends.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body;
use super::exchange::Exchange;
use super::handover::Handover;
use super::keep_alive::{self, HeadTimer, KeepAlive, Patience};
use super::linger::linger;
use super::stream::Stream;
use super::successor::Successor;
use crate::client::caller::Connection;
use crate::metrics::Counter;

/// The head of a request must arrive within this time, or the connection is closed.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that the parser may hold of one connection: more than the longest head
/// ([`super::head::HEAD_BYTES`]), so that a longer one is still read and answered.
const BUFFER_BYTES: usize = 64 * 1024;

/// The parts that serve the connections of one port.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The routes.
    pub router: Router,
    /// How long a connection is kept between two requests.
    pub keep_alive: KeepAlive,
    /// Once cancelled, each connection ends after its current answer.
    pub stop: CancellationToken,
    /// The tasks of the connections, and those that took a socket.
    pub connections: TaskTracker,
    /// Counters of connections that end badly, if they are counted.
    pub counters: Option<BadEnds>,
}

/// Counters of connections that end badly.
#[derive(Clone, Debug)]
pub(crate) struct BadEnds {
    /// No complete head came in time, and no request before.
    pub timeout: Counter,
    /// The bytes are no HTTP, or the head is too long, and no request came before.
    pub no_http: Counter,
    /// The client did not read its answer.
    pub slow: Counter,
}

/// A connection and the parts that serve it.
pub(super) struct Served {
    service: Service,
    router: TowerToHyperService<Router>,
    /// In the extensions of its requests.
    connection: Option<Arc<Connection>>,
    /// How long it may wait for a request.
    patience: Patience,
}

/// How the HTTP server ended a connection.
enum End {
    Closed(hyper::Result<()>),
    HandedOver(Successor),
}

impl Served {
    pub(super) fn new(
        service: &Service,
        connection: Option<Connection>,
        patience: Patience,
    ) -> Self {
        Self {
            service: service.clone(),
            router: TowerToHyperService::new(service.router.clone()),
            connection: connection.map(Arc::new),
            patience,
        }
    }

    pub(super) async fn run(self, stream: TcpStream) {
        let Self {
            service, patience, ..
        } = &self;
        let exchange = Exchange::new();
        let answer = service_fn(|request| self.answer(request, &exchange));
        let stream = Stream::new(stream, exchange.clone());
        let mut connection = builder(&exchange, *patience)
            .serve_connection(stream, answer)
            .with_upgrades();

        let end = tokio::select! {
            end = ended(&mut connection, &exchange) => end,
            () = service.stop.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                match timeout(HEAD_PATIENCE, ended(&mut connection, &exchange)).await {
                    Ok(end) => end,
                    // It does not read its answer: the drain does not wait for that.
                    Err(_) => return,
                }
            }
        };

        // The HTTP server's memory is freed before anything else waits on this connection.
        let parts = connection.into_parts();
        match end {
            End::HandedOver(successor) => service.hand_over(parts, successor),
            End::Closed(closed) => {
                service.count(closed, exchange.has_served());
                let stream = parts.and_then(|parts| parts.io.into_ended());
                service.linger(stream, &exchange).await;
            }
        }
    }

    /// The router's answer, with the headers that concern the connection.
    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        exchange: &Arc<Exchange>,
    ) -> Result<Response, Infallible> {
        let mut request = body::received(request, exchange);
        let wants_keep_alive = keep_alive::is_wanted(&request);
        let extensions = request.extensions_mut();
        extensions.insert(Handover::new(exchange.clone()));
        if let Some(connection) = &self.connection {
            extensions.insert(connection.clone());
        }
        let mut response = self.router.call(request).await?;
        body::settle(exchange, &mut response).await;
        if wants_keep_alive && !self.service.stop.is_cancelled() {
            self.service.keep_alive.announce(&mut response);
        }
        Ok(response)
    }
}

impl Service {
    /// Time limits of a connection that is within the limits of the node.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            head: HEAD_PATIENCE,
            idle: self.keep_alive.idle(),
        }
    }

    /// Gives the socket to the task that a request chose.
    fn hand_over<S>(&self, parts: Option<Parts<Stream, S>>, successor: Successor) {
        let Some(Parts { io, read_buf, .. }) = parts else {
            return;
        };
        if let Some(stream) = io.into_inner() {
            self.connections.spawn(successor.run(stream, read_buf));
        }
    }

    /// Waits until a connection that was closed in order can be dropped. It still counts.
    async fn linger(&self, stream: Option<TcpStream>, exchange: &Exchange) {
        if let Some(stream) = stream {
            linger(stream, exchange.is_left_unread(), &self.stop).await;
        }
    }

    /// Counts a connection that ended badly. `has_served`: a request was complete on it.
    fn count(&self, closed: hyper::Result<()>, has_served: bool) {
        let Err(error) = closed else { return };
        tracing::debug!("connection failed: {error}");
        let Some(counters) = &self.counters else {
            return;
        };
        if is_unread(&error) {
            counters.slow.inc();
        } else if has_served {
            // The metric counts clients that never got through. This one did.
        } else if error.is_timeout() {
            counters.timeout.inc();
        } else if error.is_parse() {
            counters.no_http.inc();
        }
    }
}

/// hyper's settings for one connection.
fn builder(exchange: &Arc<Exchange>, patience: Patience) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer::new(exchange.clone(), patience))
        .header_read_timeout(patience.head)
        .max_buf_size(BUFFER_BYTES)
        // A client that has sent its request may close its side and wait for the answer. A client
        // that only closed looks the same, so it is served and counted until its answer is due. The
        // stream notices one that reset its connection.
        .half_close(true);
    builder
}

/// Serves a connection until it ends or a request takes its socket.
async fn ended<C>(connection: &mut C, exchange: &Exchange) -> End
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    poll_fn(|context| match Pin::new(&mut *connection).poll(context) {
        Poll::Ready(result) => Poll::Ready(End::Closed(result)),
        Poll::Pending => match exchange.successor() {
            Some(successor) => Poll::Ready(End::HandedOver(successor)),
            None => Poll::Pending,
        },
    })
    .await
}

/// Whether the client did not take its answer: see [`Stream`].
fn is_unread(error: &hyper::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let cause = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}
