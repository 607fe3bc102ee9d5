//! The accept loop of a port. It admits each connection, rejects it, or resets it. It is ours,
//! because axum's has no time limit on heads and no limit on their size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::connection::{Served, Service};
use super::delayed_reset::DelayedResets;
use super::keep_alive::Patience;
use crate::client::caller::{Connection, Proxies};
use crate::client::connection_limits::{ConnectionLimits, LimitReached};
use crate::metrics::Counter;

/// The head of a request on a connection over the limits must arrive within this time. Such a
/// connection only waits for its answer.
const REJECTION_PATIENCE: Duration = Duration::from_secs(2);

/// Pause after an accept that failed, mostly because no file descriptor is left. The clients wait
/// in the kernel's queue meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted in a row before other tasks get their turn.
const ACCEPTS: u32 = 32;

/// A port.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The routes and the limits of each connection.
    pub service: Service,
    /// The connection limits; `None` is no limit.
    pub admission: Option<Admission>,
}

/// How the public port admits connections.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The connection limits.
    pub limits: Arc<ConnectionLimits>,
    /// Networks of trusted proxies. Their address is not that of their clients.
    pub proxies: Arc<Proxies>,
    /// Counts connections over the limits.
    pub too_many: Counter,
    /// Connections over the limits that get no answer.
    pub resets: DelayedResets,
}

impl Server {
    /// Serves until `stop`, then closes the listener and lets every connection end its current
    /// answer.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let mut accepts: u32 = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.service.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.take_in(stream, canonical(peer)),
                Err(error) => {
                    tracing::error!("cannot accept connections: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            accepts = accepts.wrapping_add(1);
            if accepts.is_multiple_of(ACCEPTS) {
                // During a flood other tasks, such as the ops port, still get their turns.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Serves a connection if the limits allow it.
    fn take_in(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(admission) = &self.admission else {
            return self.spawn(None, stream);
        };
        let Admission {
            limits, proxies, ..
        } = admission;
        match limits.accept(peer.ip(), proxies.contains(peer.ip())) {
            Ok(permit) => {
                let connection = Connection::admitted(peer, permit, limits.publish_rates());
                self.spawn(Some(connection), stream);
            }
            Err(limit) => self.reject(admission, limit, stream, peer),
        }
    }

    fn spawn(&self, connection: Option<Connection>, stream: TcpStream) {
        let patience = self.service.patience();
        let served = Served::new(&self.service, connection, patience);
        self.service.connections.spawn(served.run(stream));
    }

    /// Answers a connection over the limits with 429, or resets it if there are many.
    fn reject(
        &self,
        admission: &Admission,
        limit: LimitReached,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        admission.too_many.inc();
        tracing::debug!(%peer, "refused: {limit}");
        let Some(permit) = admission.limits.permit_rejection(peer.ip()) else {
            return admission.resets.push(stream);
        };
        let patience = Patience {
            head: REJECTION_PATIENCE,
            idle: REJECTION_PATIENCE,
        };
        let connection = Connection::over_limit(peer, limit);
        let served = Served::new(&self.service, Some(connection), patience);
        self.service.connections.spawn(async move {
            let _permit = permit;
            // A client that does not take its answer in time is closed without it.
            let _ = timeout(2 * REJECTION_PATIENCE, served.run(stream)).await;
        });
    }
}

/// The address without a trace of the socket's family: a socket of both families has IPv4 addresses
/// written as IPv6 ones.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
