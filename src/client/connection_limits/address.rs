//! Addresses: how many connections each has, and how fast it sends. An address stays known until
//! its buckets would be full again: a client that reconnects finds them as it left them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::LimitReached;
use crate::client::rate::{self, PublishLimits, PublishRates, Rate};

/// Addresses without connections that stay known at most. Beyond that the one that left first is
/// forgotten early.
const GONE: usize = 65_536;

/// Addresses looked at again whenever one connects or leaves. More than one, so that the queue
/// shrinks although each call may append an address.
const SWEPT: usize = 4;

/// An IPv4 address, or the network of 64 bits that one owner of IPv6 addresses has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// An IPv4 address, also if it was written as an IPv6 one.
    V4(Ipv4Addr),
    /// The first half of an IPv6 address.
    V6([u16; 4]),
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Limits of one address; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressLimits {
    /// `--address-connections`.
    pub connections: Option<usize>,
    /// `--address-rate`: requests and messages a second.
    pub rate: Option<u32>,
    /// Whether requests through proxies are limited by client address, because a proxy's
    /// connection belongs to many clients.
    pub publish: bool,
}

impl AddressLimits {
    pub(super) fn any(&self) -> bool {
        self.connections.is_some() || self.rate.is_some() || self.publish
    }
}

/// The addresses that have connections, or had some lately.
#[derive(Debug)]
pub(super) struct Addresses {
    limits: AddressLimits,
    publish: PublishLimits,
    /// How long an address stays known without connections: its buckets are full again then.
    memory: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<Address, AddressEntry>,
    /// Addresses that had no connections at some time, each once, with when to look at it again.
    gone: VecDeque<(Instant, Address)>,
}

#[derive(Debug)]
struct AddressEntry {
    rates: Arc<AddressRates>,
    connections: usize,
    /// It is in `gone`.
    queued: bool,
}

/// How fast one address sends.
#[derive(Debug)]
pub(crate) struct AddressRates {
    address: Address,
    addresses: Weak<Addresses>,
    rate: Option<Mutex<Rate>>,
    publish: PublishRates,
}

/// One connection or request of an address; given back when dropped.
#[derive(Debug)]
pub(crate) struct AddressPermit(Arc<AddressRates>);

impl Addresses {
    pub(super) fn new(limits: AddressLimits, publish: PublishLimits) -> Arc<Self> {
        let publish = if limits.publish {
            publish
        } else {
            PublishLimits::default()
        };
        // A bucket of requests is full again after a second.
        let rate_memory = Duration::from_secs(u64::from(limits.rate.is_some()));
        let memory = rate_memory.max(publish.memory());
        Arc::new(Self {
            limits,
            publish,
            memory,
            known: Mutex::default(),
        })
    }

    /// Counts one more connection or request of this address, unless it has reached its limit.
    pub(super) fn enter(self: &Arc<Self>, address: Address) -> Result<AddressPermit, LimitReached> {
        let mut known = self.lock();
        // Every call sweeps a little, so that no call sweeps much.
        known.sweep(self.memory);
        let entry = known
            .entries
            .entry(address)
            .or_insert_with(|| self.new_entry(address));
        let limit = self.limits.connections;
        if limit.is_some_and(|limit| entry.connections >= limit) {
            return Err(LimitReached::Address);
        }
        entry.connections += 1;
        Ok(AddressPermit(entry.rates.clone()))
    }

    /// An address that is not known yet.
    fn new_entry(self: &Arc<Self>, address: Address) -> AddressEntry {
        let rates = AddressRates {
            address,
            addresses: Arc::downgrade(self),
            rate: self.limits.rate.map(Rate::new).map(Mutex::new),
            publish: PublishRates::new(self.publish),
        };
        AddressEntry {
            rates: Arc::new(rates),
            connections: 0,
            queued: false,
        }
    }

    fn leave(&self, address: Address) {
        let mut known = self.lock();
        let Known { entries, gone } = &mut *known;
        if let Entry::Occupied(mut occupied) = entries.entry(address) {
            let entry = occupied.get_mut();
            entry.connections -= 1;
            let is_idle = entry.connections == 0;
            if is_idle && self.memory.is_zero() {
                // No buckets, so nothing to remember.
                occupied.remove();
            } else if is_idle && !entry.queued {
                entry.queued = true;
                gone.push_back((Instant::now() + self.memory, address));
            }
        }
        known.sweep(self.memory);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets some of the addresses whose time is over.
    fn sweep(&mut self, memory: Duration) {
        let now = Instant::now();
        for _ in 0..SWEPT {
            let is_over_bound = self.gone.len() > GONE;
            let due = self
                .gone
                .pop_front_if(|(due, _)| *due <= now || is_over_bound);
            let Some((_, address)) = due else { return };
            let Entry::Occupied(mut occupied) = self.entries.entry(address) else {
                continue;
            };
            let entry = occupied.get_mut();
            entry.queued = false;
            if entry.connections > 0 {
                // It is queued again when its last connection closes.
            } else if is_over_bound || entry.rates.is_fresh() {
                occupied.remove();
            } else {
                entry.queued = true;
                self.gone.push_back((now + memory, address));
            }
        }
    }
}

impl AddressRates {
    /// Counts one more request or message of this address; false if that is over the limit.
    pub(crate) fn allows_message(&self) -> bool {
        let rate = self.rate.as_ref();
        rate.is_none_or(|rate| rate::lock(rate).allows())
    }

    /// The buckets of what clients behind proxies publish by requests.
    pub(crate) fn publish_rates(&self) -> &PublishRates {
        &self.publish
    }

    /// Whether all buckets are full, so that the address can be forgotten.
    fn is_fresh(&self) -> bool {
        let rate = self.rate.as_ref();
        let is_full = rate.is_none_or(|rate| rate::lock(rate).is_full());
        is_full && self.publish.is_fresh()
    }
}

impl AddressPermit {
    /// The rate limits of the address.
    pub(crate) fn rates(&self) -> &Arc<AddressRates> {
        &self.0
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some(addresses) = self.0.addresses.upgrade() {
            addresses.leave(self.0.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn addresses(connections: Option<usize>, rate: Option<u32>) -> Arc<Addresses> {
        Addresses::new(
            AddressLimits {
                connections,
                rate,
                publish: false,
            },
            PublishLimits::default(),
        )
    }

    fn ip(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn an_address_is_an_ipv4_address_or_half_of_an_ipv6_one() {
        assert_eq!(ip("192.0.2.1"), ip("::ffff:192.0.2.1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(
            ip("2001:db8:0:1::1"),
            ip("2001:db8:0:1:ffff:ffff:ffff:ffff")
        );
        assert_ne!(ip("2001:db8:0:1::1"), ip("2001:db8:0:2::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_rates_nothing_is_kept_of_an_address_that_is_gone() {
        let addresses = addresses(Some(2), None);
        let permits = [addresses.enter(ip("::1")), addresses.enter(ip("::2"))];
        assert!(permits.iter().all(Result::is_ok));
        assert_eq!(
            addresses.enter(ip("::3")).err(),
            Some(LimitReached::Address)
        );
        assert!(addresses.enter(ip("192.0.2.1")).is_ok());
        drop(permits);
        assert!(addresses.lock().entries.is_empty() && addresses.lock().gone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_comes_back_finds_its_bucket_as_it_left_it() {
        let addresses = addresses(None, Some(3));
        let permit = addresses.enter(ip("192.0.2.1")).expect("no limit");
        assert_eq!(
            (0..5).filter(|_| permit.rates().allows_message()).count(),
            3
        );
        drop(permit);
        let again = addresses.enter(ip("192.0.2.1")).expect("no limit");
        assert!(!again.rates().allows_message());
        drop(again);
        advance(Duration::from_secs(2)).await;
        // Another address that connects removes it.
        let _other = addresses.enter(ip("192.0.2.2"));
        assert_eq!(addresses.lock().entries.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_are_gone_are_few_however_many_there_were() {
        let addresses = addresses(None, Some(1));
        for host in 0..2 * GONE as u32 {
            drop(addresses.enter(Address::V4(host.into())));
        }
        assert!(addresses.lock().entries.len() <= GONE + 1);
        advance(Duration::from_secs(2)).await;
        for host in 0..GONE as u32 / 4 {
            drop(addresses.enter(Address::V4((1 << 30 | host).into())));
        }
        assert!(addresses.lock().entries.len() <= GONE / 4 + 1);
    }
}
