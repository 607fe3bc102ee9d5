//! Connection limits: how many connections the node accepts, in all and from one address. A
//! connection counts once, from accept to close, whatever it becomes in between.

pub(crate) mod address;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

use self::address::{Address, AddressLimits, AddressPermit, AddressRates, Addresses};
use super::rate::{PublishLimits, PublishRates};
use crate::metrics::{Metrics, Transport};

/// File descriptors kept for everything but public connections. If the process has few, an eighth
/// of them.
const RESERVE: usize = 64;

/// Connections over the limits that are answered 429 at the same time. The others are reset.
const REJECTIONS: usize = 32;

/// The same for one address.
const REJECTIONS_OF_ADDRESS: usize = 2;

/// Limits of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSettings {
    /// `--max-connections`; `None` is no limit.
    pub connections: Option<usize>,
    /// Connections for which the node has file descriptors.
    pub descriptors: usize,
    /// Limits of one address.
    pub address: AddressLimits,
    /// Limits of what one connection may publish by requests.
    pub publish: PublishLimits,
}

/// Counts connections and rejects those over the limits.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    settings: LimitSettings,
    /// Connections that hold a [`Permit`].
    open: AtomicUsize,
    /// `None` if nothing is limited by address.
    addresses: Option<Arc<Addresses>>,
    /// Addresses of the connections that hold a [`RejectionPermit`].
    rejections: Mutex<Vec<Address>>,
    metrics: Arc<Metrics>,
}

/// One connection within the limits; given back when dropped. Every connection has one, so it is
/// small.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<ConnectionLimits>,
    /// The client's share of its address's limit, if addresses are counted.
    address: Option<AddressPermit>,
    transport: Transport,
}

/// Permission to answer a connection over the limits with 429; given back when dropped.
#[derive(Debug)]
pub(crate) struct RejectionPermit {
    limits: Arc<ConnectionLimits>,
    address: Address,
}

/// The limit that a connection reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// `--max-connections`, or the node's file descriptors.
    #[error("too many connections to this node")]
    Node,
    /// `--address-connections`.
    #[error("too many connections from your address")]
    Address,
}

impl LimitReached {
    /// Its label in the metric of rejected requests.
    pub(crate) const LABEL: &str = "too_many_connections";
}

/// The file descriptors of this process, divided by use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    /// For public connections.
    pub connections: usize,
    /// For the ops port, Redis and everything else.
    pub reserve: usize,
}

/// Divides the file descriptors that this process may have now.
pub(crate) fn descriptors() -> Descriptors {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserve = RESERVE.min(limit / 8);
    Descriptors {
        connections: limit - reserve,
        reserve,
    }
}

impl ConnectionLimits {
    /// No connections yet.
    pub(crate) fn new(settings: LimitSettings, metrics: Arc<Metrics>) -> Arc<Self> {
        let limit = settings.connections.unwrap_or(0);
        let limit = limit.try_into().unwrap_or(i64::MAX);
        metrics.connections_limit.set(limit);
        let by_address = settings.address.any();
        let addresses = by_address.then(|| Addresses::new(settings.address, settings.publish));
        Arc::new(Self {
            settings,
            open: AtomicUsize::new(0),
            addresses,
            rejections: Mutex::default(),
            metrics,
        })
    }

    /// Connections that may be open at once.
    pub(crate) fn most(&self) -> usize {
        let limit = self.settings.connections.unwrap_or(usize::MAX);
        self.settings.descriptors.min(limit)
    }

    /// Counts a connection that was accepted from `ip`.
    ///
    /// # Errors
    /// If a limit is reached.
    pub(crate) fn accept(
        self: &Arc<Self>,
        ip: IpAddr,
        is_proxy: bool,
    ) -> Result<Permit, LimitReached> {
        // A proxy's connections belong to many clients. Each request counts by its client's address
        // instead, see `permit_address`.
        let address = if is_proxy {
            None
        } else {
            self.permit_address(ip)?
        };
        // Counted first and taken back, so that two accepts at the limit cannot both succeed.
        if self.open.fetch_add(1, Relaxed) >= self.most() {
            self.open.fetch_sub(1, Relaxed);
            return Err(LimitReached::Node);
        }
        self.metrics.of(Transport::Http).connections.inc();
        Ok(Permit {
            limits: self.clone(),
            address,
            transport: Transport::Http,
        })
    }

    /// Counts one more connection or request of this address, if addresses are counted.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub(crate) fn permit_address(&self, ip: IpAddr) -> Result<Option<AddressPermit>, LimitReached> {
        let addresses = self.addresses.as_ref();
        addresses
            .map(|addresses| addresses.enter(ip.into()))
            .transpose()
    }

    /// Whether a connection over the limits can be answered 429. Otherwise it has to be reset,
    /// because an answer takes a descriptor and time.
    pub(crate) fn permit_rejection(self: &Arc<Self>, ip: IpAddr) -> Option<RejectionPermit> {
        let address = Address::from(ip);
        let mut rejections = self.lock_rejections();
        // One address that floods the node must not use up all answers.
        let own = rejections.iter().filter(|other| **other == address).count();
        let descriptors = self.open.load(Relaxed) + rejections.len();
        if rejections.len() >= REJECTIONS
            || own >= REJECTIONS_OF_ADDRESS
            || descriptors >= self.settings.descriptors
        {
            return None;
        }
        rejections.push(address);
        Some(RejectionPermit {
            limits: self.clone(),
            address,
        })
    }

    /// Full token buckets for what one connection publishes by requests.
    pub(crate) fn publish_rates(&self) -> PublishRates {
        PublishRates::new(self.settings.publish)
    }

    fn lock_rejections(&self) -> MutexGuard<'_, Vec<Address>> {
        self.rejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Counts one more request or message of its address; false if that is over the limit.
    pub(crate) fn allows_message(&self) -> bool {
        self.address_rates()
            .is_none_or(|rates| rates.allows_message())
    }

    /// Its address's rate limits, if anything is limited by address.
    pub(crate) fn address_rates(&self) -> Option<&Arc<AddressRates>> {
        self.address.as_ref().map(AddressPermit::rates)
    }

    /// Counts the connection as another transport from now on. `address` is the client's, if the
    /// connection is a proxy's.
    pub(crate) fn become_client(&mut self, transport: Transport, address: Option<AddressPermit>) {
        // Before the permit's own fields change, because its drop decrements by them.
        self.limits.metrics.of(self.transport).connections.dec();
        self.transport = transport;
        self.limits.metrics.of(self.transport).connections.inc();
        if address.is_some() {
            self.address = address;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.metrics.of(self.transport).connections.dec();
        self.limits.open.fetch_sub(1, Relaxed);
    }
}

impl Drop for RejectionPermit {
    fn drop(&mut self) {
        let mut rejections = self.limits.lock_rejections();
        let own = rejections.iter().position(|other| *other == self.address);
        if let Some(own) = own {
            rejections.swap_remove(own);
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
