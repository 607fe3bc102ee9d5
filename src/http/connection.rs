//! The sender of a request: the connection it came on, the client's address behind proxies, and the
//! limits of both.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::HeaderMap;
use ipnet::IpNet;

use super::forwarded;
use crate::client::connection_limits::address::{AddressPermit, AddressRates};
use crate::client::connection_limits::{ConnectionLimits, LimitReached, Permit};
use crate::client::rate::PublishRates;
use crate::metrics::Transport;
use crate::ws::handshake::Rejection;

/// A connection to the public port, as its requests see it; in their extensions.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    /// Its one place, until it becomes something else than HTTP; an error if it is one too many and
    /// only waits for its 429.
    permit: Result<Mutex<Option<Permit>>, LimitReached>,
    /// Its address' limits, if anything is limited by address and it is no proxy's.
    source: Option<Arc<AddressRates>>,
    publish: PublishRates,
}

/// Networks whose `X-Forwarded-For` or `Forwarded` is believed.
#[derive(Debug)]
pub struct Proxies(Vec<IpNet>);

/// The sender of a request.
#[derive(Debug)]
pub struct Caller {
    /// The client's address.
    pub ip: IpAddr,
    connection: Arc<Connection>,
    /// Its place among those of its address, if it came through a proxy.
    place: Option<AddressPermit>,
}

impl Connection {
    pub(super) fn admitted(peer: SocketAddr, permit: Permit, publish: PublishRates) -> Self {
        let source = permit.address_rates().cloned();
        Self {
            peer,
            permit: Ok(Mutex::new(Some(permit))),
            source,
            publish,
        }
    }

    pub(super) fn over_limit(peer: SocketAddr, limit: LimitReached) -> Self {
        Self {
            peer,
            permit: Err(limit),
            source: None,
            publish: PublishRates::new(Default::default()),
        }
    }
}

impl Proxies {
    /// Those of these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    /// Whether this is a proxy's address.
    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The client's address: that of the connection, or what trusted proxies say. Each proxy
    /// appends the address it saw, so the last one that is not itself a proxy's is the client's;
    /// anybody can write what stands before it.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.has(peer) {
            return peer;
        }
        let mut client = peer;
        for hop in forwarded::hops(headers).into_iter().map_while(|hop| hop) {
            client = hop.to_canonical();
            if !self.has(client) {
                break;
            }
        }
        client
    }
}

/// A network of IPv4 addresses as one, also if it is written as one of IPv6.
fn canonical(network: IpNet) -> IpNet {
    match (
        network.network().to_canonical(),
        network.prefix_len().checked_sub(96),
    ) {
        (ip @ IpAddr::V4(_), Some(length)) => IpNet::new(ip, length).unwrap_or(network),
        _ => network,
    }
}

impl Caller {
    /// The sender of this request, if it may be answered: its connection is one of those allowed,
    /// and its address is below its limits. The request counts.
    pub(super) fn of(
        request: &Request,
        proxies: &Proxies,
        limits: &ConnectionLimits,
    ) -> Result<Self, Rejection> {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        let connection =
            connection.ok_or(Rejection::Unreadable("a request without a connection"))?;
        let ip = proxies.client(connection.peer.ip(), request.headers());
        if let Err(limit) = connection.permit {
            return Err(Rejection::ConnectionLimit(limit));
        }
        let place = if proxies.has(connection.peer.ip()) && !proxies.has(ip) {
            limits.permit_address(ip)?
        } else {
            None
        };
        let caller = Self {
            ip,
            connection,
            place,
        };
        if caller
            .source()
            .is_some_and(|source| !source.allows_message())
        {
            return Err(Rejection::Rate(
                "too many requests and messages a second from your address",
            ));
        }
        Ok(caller)
    }

    /// The limits of the client's address, if anything is limited by address.
    fn source(&self) -> Option<&Arc<AddressRates>> {
        self.place
            .as_ref()
            .map(AddressPermit::rates)
            .or(self.connection.source.as_ref())
    }

    /// How fast it may publish: a proxy's connection is that of many clients, so that they are told
    /// apart by address.
    pub(super) fn publish_rates(&self) -> &PublishRates {
        self.place
            .as_ref()
            .map_or(&self.connection.publish, |place| {
                place.rates().publish_rates()
            })
    }

    /// The connection's place, as it becomes something else than HTTP.
    pub fn into_permit(self, transport: Transport) -> Result<Permit, Rejection> {
        let permit = self.connection.permit.as_ref().ok();
        let permit =
            permit.and_then(|permit| permit.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut permit =
            permit.ok_or(Rejection::Malformed("this connection cannot be upgraded"))?;
        permit.become_client(transport, self.place);
        Ok(permit)
    }
}
