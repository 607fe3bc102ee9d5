//! Serving HTTP/1.1: our own accept loop, because axum's has no time limit on headers and none on
//! their size. What is answered is the router's.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body;
use super::connection::{Connection, Proxies};
use super::exchange::Exchange;
use super::farewell;
use super::handover::{Handover, Successor};
use super::keep_alive::{self, HeadTimer, KeepAlive, Patience};
use super::resets::Resets;
use super::stream::Stream;
use crate::client::connection_limits::ConnectionLimits;
use crate::metrics::Counter;

/// A request's head has arrived within this time, or the connection is closed.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// The same for a connection that is only told that it is too many.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// Both time limits of such a connection.
const FAREWELL: Patience = Patience {
    head: FAREWELL_PATIENCE,
    idle: FAREWELL_PATIENCE,
};

/// Connections accepted in a row before other tasks get their turn.
const ACCEPTS: u32 = 32;

/// Bytes that the parser may hold of one connection: more than the longest head
/// ([`super::head::HEAD_BYTES`]), so that one that is too long is read and answered.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a server counts of connections on which no request ever came to be.
#[derive(Clone, Debug)]
pub struct Unheard {
    /// Nothing, or half of a head, came in time.
    pub timeout: Counter,
    /// What came is no HTTP, or its head is too long.
    pub no_http: Counter,
}

/// A port's service, and its clients.
#[derive(Clone, Debug)]
pub struct Server {
    /// The routes.
    pub router: Router,
    /// The connection limits; `None` is no limit.
    pub admission: Option<Admission>,
    /// How long a connection is kept between two requests.
    pub keep_alive: KeepAlive,
    /// No new connections from then on; each open one ends after its current answer.
    pub stop: CancellationToken,
    /// The tasks of its connections.
    pub connections: TaskTracker,
}

/// How the public port lets connections in.
#[derive(Clone, Debug)]
pub struct Admission {
    /// How many may be open.
    pub limits: Arc<ConnectionLimits>,
    /// Networks of trusted proxies, whose address is not that of their clients.
    pub proxies: Arc<Proxies>,
    /// Counters of connections without a request.
    pub unheard: Unheard,
    /// Connections that were too many.
    pub too_many: Counter,
    /// Those of them that are not even told so.
    pub resets: Resets,
    /// Clients that did not take their answer.
    pub slow: Counter,
}

impl Server {
    /// Serves until `stop`, then closes the listener and lets every connection end its current
    /// answer.
    pub async fn serve(self, listener: TcpListener) {
        let mut accepts: u32 = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.take_in(stream, canonical(peer)),
                // Mostly no file descriptor is left: those who wait are accepted when somebody
                // leaves.
                Err(error) => {
                    tracing::error!("cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            accepts = accepts.wrapping_add(1);
            if accepts.is_multiple_of(ACCEPTS) {
                // A flood leaves others, such as the ops port, their turns.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Counts a connection that ended badly. `heard`: a request came to be on it.
    fn note(&self, closed: hyper::Result<()>, heard: bool) {
        let Err(error) = closed else { return };
        tracing::debug!("connection failed: {error}");
        let Some(Admission { unheard, slow, .. }) = &self.admission else {
            return;
        };
        match unheard {
            _ if is_unread(&error) => slow.inc(),
            // One that was heard before may be silent or talk nonsense now: it was no handshake.
            _ if heard => {}
            unheard if error.is_timeout() => unheard.timeout.inc(),
            unheard if error.is_parse() => unheard.no_http.inc(),
            _ => {}
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            head: HEAD_PATIENCE,
            idle: self.keep_alive.idle(),
        }
    }

    /// Serves a connection, tells it that it is too many, or resets it.
    fn take_in(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(Admission {
            limits,
            proxies,
            too_many,
            resets,
            ..
        }) = &self.admission
        else {
            self.connections
                .spawn(Served::new(self, None, self.patience()).run(stream));
            return;
        };
        match limits.accept(peer.ip(), proxies.has(peer.ip())) {
            Ok(permit) => {
                let connection = Connection::admitted(peer, permit, limits.publish_rates());
                self.connections
                    .spawn(Served::new(self, Some(connection), self.patience()).run(stream));
            }
            Err(limit) => {
                too_many.inc();
                tracing::debug!(%peer, "refused: {limit}");
                let Some(rejection_permit) = limits.permit_rejection(peer.ip()) else {
                    return resets.push(stream);
                };
                let connection = Connection::over_limit(peer, limit);
                let served = Served::new(self, Some(connection), FAREWELL);
                self.connections.spawn(async move {
                    let _turned_away = rejection_permit;
                    let _ = timeout(2 * FAREWELL_PATIENCE, served.run(stream)).await;
                });
            }
        }
    }
}

/// A connection and what it is served with.
struct Served {
    server: Server,
    router: TowerToHyperService<Router>,
    /// In the extensions of its requests.
    connection: Option<Arc<Connection>>,
    /// How long it may wait for a request.
    patience: Patience,
}

impl Served {
    fn new(server: &Server, connection: Option<Connection>, patience: Patience) -> Self {
        let router = TowerToHyperService::new(server.router.clone());
        Self {
            server: server.clone(),
            router,
            connection: connection.map(Arc::new),
            patience,
        }
    }

    async fn run(self, stream: TcpStream) {
        let Self {
            server, patience, ..
        } = &self;
        let exchange = Exchange::new();
        let service = service_fn(|request| self.answer(request, &exchange));
        let mut builder = http1::Builder::new();
        builder
            .timer(HeadTimer::new(exchange.clone(), *patience))
            .header_read_timeout(patience.head);
        // A client that has sent its request may close its side and wait for the answer. One that
        // has left looks the same until it is answered, so it is served and counted until then: no
        // request takes longer than its patience.
        builder.half_close(true).max_buf_size(BUFFER_BYTES);
        let stream = Stream::new(stream, exchange.clone());
        let mut connection = builder.serve_connection(stream, service).with_upgrades();
        let end = tokio::select! {
            end = ended(&mut connection, &exchange) => end,
            () = server.stop.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                match timeout(HEAD_PATIENCE, ended(&mut connection, &exchange)).await {
                    Ok(end) => end,
                    // It does not read its answer: nobody waits for that.
                    Err(_) => return,
                }
            }
        };
        match end {
            End::HandedOver(successor) => {
                let Some(Parts { io, read_buf, .. }) = connection.into_parts() else {
                    return;
                };
                if let Some(stream) = io.into_inner() {
                    server.connections.spawn(successor.run(stream, read_buf));
                }
            }
            End::Closed(closed) => {
                server.note(closed, exchange.has_heard());
                if let Some(stream) = connection
                    .into_parts()
                    .and_then(|parts| parts.io.into_ended())
                {
                    // With nothing of the HTTP server any more, but still counted.
                    farewell::say(stream, exchange.is_left_unread(), &server.stop).await;
                }
            }
        }
    }

    /// The router's answer, and what it means for the connection.
    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        exchange: &Arc<Exchange>,
    ) -> Result<Response, Infallible> {
        let mut request = body::received(request, exchange);
        let kept = keep_alive::is_wanted(&request);
        let extensions = request.extensions_mut();
        extensions.insert(Handover::new(exchange.clone()));
        self.connection
            .iter()
            .for_each(|connection| drop(extensions.insert(connection.clone())));
        let mut response = self.router.call(request).await?;
        body::settle(exchange, &mut response).await;
        if kept && !self.server.stop.is_cancelled() {
            self.server.keep_alive.tell(&mut response);
        }
        Ok(response)
    }
}

/// The address without a trace of the socket's family: a socket of both families has IPv4 addresses
/// written as IPv6 ones.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// How the HTTP server is done with a connection.
enum End {
    Closed(hyper::Result<()>),
    HandedOver(Successor),
}

/// Serves a connection until it ends or a request hands it over.
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
