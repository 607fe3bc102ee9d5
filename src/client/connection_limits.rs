//! The connection limits: how many connections there may be, in all and from one address. Each kind
//! of connection counts once, from when it is accepted until it is closed, whatever becomes of it
//! in between.

pub mod address;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

use self::address::{Address, AddressLimits, Addresses, Place, Source};
use super::rate::{PublishLimits, PublishRates};
use crate::metrics::{Metrics, Way};

/// File descriptors that are not for public connections, or an eighth of all if those are few.
const RESERVE: usize = 64;

/// Connections beyond the limits that are told so at the same time; the others are reset.
const TURNED_AWAY: usize = 32;

/// The same for one address.
const TURNED_AWAY_OF_ADDRESS: usize = 2;

/// Limits of a node.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// `--max-connections`; `None` is no limit.
    pub connections: Option<usize>,
    /// Connections for which the node has file descriptors.
    pub descriptors: usize,
    /// Limits of one address.
    pub address: AddressLimits,
    /// How fast one connection may publish by requests.
    pub publish: PublishLimits,
}

/// Counts connections and rejects those that are too many.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    open: AtomicUsize,
    /// `None` if nothing is limited by address.
    addresses: Option<Arc<Addresses>>,
    /// Addresses of the connections that are being told that they are too many.
    turned_away: Mutex<Vec<Address>>,
    metrics: Arc<Metrics>,
}

/// One connection's place; given back when dropped. There are many: it is as small as it can be.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// Its place among those of its address, if addresses are counted.
    place: Option<Place>,
    way: Way,
}

/// A connection that is too many, while it is told so.
#[derive(Debug)]
pub struct TurnedAway {
    gate: Arc<Gate>,
    address: Address,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `--max-connections`, or the node's file descriptors.
    #[error("too many connections to this node")]
    Node,
    /// `--address-connections`.
    #[error("too many connections from your address")]
    Address,
}

impl Full {
    /// The value of the label of the metric that counts what was refused.
    pub const LABEL: &str = "too_many_connections";
}

/// How the file descriptors of this process are shared out.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// For public connections.
    pub connections: usize,
    /// For the ops port, Redis and everything else.
    pub reserve: usize,
}

/// The shares of as many file descriptors as this process may have now.
pub fn descriptors() -> Descriptors {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserve = RESERVE.min(limit / 8);
    Descriptors {
        connections: limit - reserve,
        reserve,
    }
}

impl Gate {
    /// A gate with these limits.
    pub fn new(limits: GateLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.connections_limit.set(
            limits
                .connections
                .unwrap_or(0)
                .try_into()
                .unwrap_or(i64::MAX),
        );
        let addresses = limits
            .address
            .any()
            .then(|| Addresses::new(limits.address, limits.publish));
        Arc::new(Self {
            limits,
            open: AtomicUsize::new(0),
            addresses,
            turned_away: Mutex::default(),
            metrics,
        })
    }

    /// Connections that may be open at once.
    pub fn most(&self) -> usize {
        self.limits
            .descriptors
            .min(self.limits.connections.unwrap_or(usize::MAX))
    }

    /// Counts a connection that was accepted, or says which limit was reached. One of a `proxy` is
    /// not counted by its address: there [`Gate::place`] counts that of the client.
    pub fn accept(self: &Arc<Self>, ip: IpAddr, proxy: bool) -> Result<Permit, Full> {
        let place = self
            .addresses
            .as_ref()
            .filter(|_| !proxy)
            .map(|addresses| addresses.enter(ip.into()));
        let place = place.transpose()?;
        if self.open.fetch_add(1, Relaxed) >= self.most() {
            self.open.fetch_sub(1, Relaxed);
            return Err(Full::Node);
        }
        self.metrics.of(Way::Http).connections.inc();
        Ok(Permit {
            gate: self.clone(),
            place,
            way: Way::Http,
        })
    }

    /// Whether a connection that is too many can be told so, or has to be reset: that takes a
    /// descriptor and time.
    pub fn turn_away(self: &Arc<Self>, ip: IpAddr) -> Option<TurnedAway> {
        let address = Address::from(ip);
        let mut turned_away = self
            .turned_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = turned_away
            .iter()
            .filter(|other| **other == address)
            .count();
        let descriptors = self.open.load(Relaxed) + turned_away.len();
        if turned_away.len() >= TURNED_AWAY
            || own >= TURNED_AWAY_OF_ADDRESS
            || descriptors >= self.limits.descriptors
        {
            return None;
        }
        turned_away.push(address);
        Some(TurnedAway {
            gate: self.clone(),
            address,
        })
    }

    /// A client's place among those of its address, if addresses are counted: for clients of
    /// proxies.
    pub fn place(&self, ip: IpAddr) -> Result<Option<Place>, Full> {
        self.addresses
            .as_ref()
            .map(|addresses| addresses.enter(ip.into()))
            .transpose()
    }

    /// How fast one connection may publish by requests, as its own buckets.
    pub fn publish_rates(&self) -> PublishRates {
        PublishRates::new(self.limits.publish)
    }
}

impl Permit {
    /// Whether its address may send one more request or message now; if so, that is counted.
    pub fn allows_message(&self) -> bool {
        self.source().is_none_or(|source| source.allows_message())
    }

    /// Its address' limits, if anything is limited by address.
    pub fn source(&self) -> Option<&Arc<Source>> {
        self.place.as_ref().map(Place::source)
    }

    /// The connection has become something else; if it is a proxy's, it has a place of the client's
    /// address now.
    pub fn become_client(&mut self, way: Way, place: Option<Place>) {
        self.gate.metrics.of(self.way).connections.dec();
        self.way = way;
        self.gate.metrics.of(self.way).connections.inc();
        if place.is_some() {
            self.place = place;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.metrics.of(self.way).connections.dec();
        self.gate.open.fetch_sub(1, Relaxed);
    }
}

impl Drop for TurnedAway {
    fn drop(&mut self) {
        let mut turned_away = self
            .gate
            .turned_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = turned_away
            .iter()
            .position(|address| *address == self.address)
        {
            turned_away.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_no_larger_than_three_words() {
        assert!(size_of::<Permit>() <= 3 * size_of::<usize>());
    }
}
