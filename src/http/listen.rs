//! Listening and serving HTTP/1.1: our own accept loop, because axum's has no time limit on headers and none on their
//! size. What is answered is the router's.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Counter;

/// A request's head has arrived within this time, or the connection is closed; also how long one may idle between two.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// A request's head is at most this long, in bytes; longer ones are answered 431.
const HEAD_BYTES: usize = 32 * 1024;

/// A client whose machine confirms nothing for this long is gone, and so is one that reads nothing although it is sent
/// something: where there are no pings, nothing else would tell.
#[cfg(target_os = "linux")]
const UNREAD_PATIENCE: Duration = Duration::from_secs(60);

/// Connections waiting to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a server counts of connections on which no request ever came to be.
#[derive(Clone, Debug)]
pub struct Unheard {
    /// Nothing, or half of a head, came in time.
    pub timeout: Counter,
    /// What came is no HTTP, or its head is too long.
    pub no_http: Counter,
}

/// A listener whose connections inherit its options, which saves system calls for each.
///
/// # Errors
/// If the address cannot be listened on.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(UNREAD_PATIENCE))?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// Serves until `stop`, then closes the listener and lets every connection end its current answer.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    unheard: Option<Unheard>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let router = TowerToHyperService::new(router.clone());
                connections.spawn(connection(stream, Peer(peer), router, unheard.clone(), stop.clone()));
            }
            // Mostly no file descriptor is left: those who wait are accepted when somebody leaves.
            Err(error) => {
                tracing::error!("cannot accept connections: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: TowerToHyperService<Router>,
    unheard: Option<Unheard>,
    stop: CancellationToken,
) {
    let (heard, streams) = (AtomicBool::new(false), AtomicBool::new(false));
    let service = service_fn(async |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        heard.store(true, Relaxed);
        request.extensions_mut().insert(peer);
        let response = router.call(request).await;
        streams.store(response.as_ref().is_ok_and(is_endless), Relaxed);
        response
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            if streams.load(Relaxed) {
                // It ends when it is told to, as sessions do.
                return connection.await.unwrap_or_else(|error| tracing::debug!("connection failed: {error}"));
            }
            match timeout(HEAD_PATIENCE, connection).await {
                Ok(result) => result,
                // It does not read its answer: nobody waits for that.
                Err(_) => return,
            }
        }
    };
    let Err(error) = result else { return };
    tracing::debug!("connection failed: {error}");
    match unheard {
        // One that was heard before may be silent or talk nonsense now: it was no handshake.
        _ if heard.load(Relaxed) => {}
        Some(unheard) if error.is_timeout() => unheard.timeout.inc(),
        Some(unheard) if error.is_parse() => unheard.no_http.inc(),
        _ => {}
    }
}

fn is_endless(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
}
