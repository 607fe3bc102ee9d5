//! The sender of a request: the connection it came on, the client's address behind proxies, and the
//! limits of both.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::HeaderMap;
use ipnet::IpNet;

use super::connection_limits::address::{AddressPermit, AddressRates};
use super::connection_limits::{ConnectionLimits, LimitReached, Permit};
use super::forwarded;
use super::rate::PublishRates;
use super::rejection::Rejection;
use crate::metrics::Transport;

/// A connection to the public port. It is in the extensions of its requests.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: SocketAddr,
    /// Its permit, until a request takes it for another transport. An error if the connection is
    /// over a limit and only waits for its 429.
    permit: Result<Mutex<Option<Permit>>, LimitReached>,
    /// The rate limits of its address, if anything is limited by address and it is no proxy's.
    address_rates: Option<Arc<AddressRates>>,
    publish_rates: PublishRates,
}

/// Networks whose `X-Forwarded-For` or `Forwarded` is believed.
#[derive(Debug)]
pub(crate) struct Proxies(Vec<IpNet>);

/// The sender of a request.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The client's address.
    pub ip: IpAddr,
    connection: Arc<Connection>,
    /// The request's share of its address's limit, if it came through a proxy.
    address: Option<AddressPermit>,
}

impl Connection {
    /// A connection within the limits.
    pub(crate) fn admitted(peer: SocketAddr, permit: Permit, publish_rates: PublishRates) -> Self {
        let address_rates = permit.address_rates().cloned();
        Self {
            peer,
            permit: Ok(Mutex::new(Some(permit))),
            address_rates,
            publish_rates,
        }
    }

    /// A connection over a limit. Its requests are rejected.
    pub(crate) fn over_limit(peer: SocketAddr, limit: LimitReached) -> Self {
        Self {
            peer,
            permit: Err(limit),
            // Never used: its requests are rejected before.
            address_rates: None,
            publish_rates: PublishRates::new(Default::default()),
        }
    }
}

impl Proxies {
    /// The proxies in these networks.
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    /// Whether this is a proxy's address.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The client's address. Each proxy appends the address it saw, so the last address that is no
    /// proxy's is the client's. Anybody can write the addresses before it.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let mut client = peer;
        // An address that a proxy did not give ends the search: the ones before it are unproven.
        for hop in forwarded::hops(headers).into_iter().map_while(|hop| hop) {
            client = hop.to_canonical();
            if !self.contains(client) {
                break;
            }
        }
        client
    }
}

/// A network of IPv4 addresses as such, also if it is written as one of IPv6.
fn canonical(network: IpNet) -> IpNet {
    let ip = network.network().to_canonical();
    match (ip, network.prefix_len().checked_sub(96)) {
        (IpAddr::V4(_), Some(length)) => IpNet::new(ip, length).unwrap_or(network),
        _ => network,
    }
}

impl Caller {
    /// Finds the sender of a request and counts the request in the limits of its address.
    ///
    /// # Errors
    /// If its connection or its address is over a limit.
    pub(crate) fn of(
        request: &Request,
        proxies: &Proxies,
        limits: &ConnectionLimits,
    ) -> Result<Self, Rejection> {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        let connection =
            connection.ok_or(Rejection::Unreadable("a request without a connection"))?;
        if let Err(limit) = connection.permit {
            return Err(Rejection::ConnectionLimit(limit));
        }
        let peer = connection.peer.ip();
        let ip = proxies.client(peer, request.headers());
        // Any other connection was counted by its address when it was accepted.
        let came_through_proxy = proxies.contains(peer) && !proxies.contains(ip);
        let address = if came_through_proxy {
            limits.permit_address(ip)?
        } else {
            None
        };
        let caller = Self {
            ip,
            connection,
            address,
        };
        caller.check_rate()?;
        Ok(caller)
    }

    /// Counts the request in the rate of its address.
    fn check_rate(&self) -> Result<(), Rejection> {
        match self.address_rates() {
            Some(rates) if !rates.allows_message() => Err(Rejection::Rate(
                "too many requests and messages a second from your address",
            )),
            _ => Ok(()),
        }
    }

    /// The rate limits of the client's address, if anything is limited by address.
    fn address_rates(&self) -> Option<&Arc<AddressRates>> {
        self.address
            .as_ref()
            .map(AddressPermit::rates)
            .or(self.connection.address_rates.as_ref())
    }

    /// How fast it may publish. A proxy's connection belongs to many clients, so there the limit is
    /// that of the client's address.
    pub(crate) fn publish_rates(&self) -> &PublishRates {
        self.address
            .as_ref()
            .map_or(&self.connection.publish_rates, |address| {
                address.rates().publish_rates()
            })
    }

    /// Takes the connection's permit, because the connection becomes another transport.
    ///
    /// # Errors
    /// If another request of the connection has taken it.
    pub(crate) fn into_permit(self, transport: Transport) -> Result<Permit, Rejection> {
        // Pipelined requests share the connection. Only one of them can take it.
        let permit = self.connection.permit.as_ref().ok();
        let permit =
            permit.and_then(|permit| permit.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut permit =
            permit.ok_or(Rejection::Malformed("this connection cannot be upgraded"))?;
        permit.become_client(transport, self.address);
        Ok(permit)
    }
}
