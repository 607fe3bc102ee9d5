//! Addresses: how many connections each has, and how fast it sends. An address is known while it is
//! connected, and after that until its buckets would be full again: one that comes back at once
//! finds them as it left them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Full;
use crate::client::rate::{PublishLimits, PublishRates, Rate};

/// Addresses without connections that are still known, at most: the one that left first is
/// forgotten early.
const GONE: usize = 65_536;

/// Addresses that are looked at again whenever one comes or goes: more than can have gone
/// meanwhile.
const SWEPT: usize = 4;

/// An IPv4 address, or the network of 64 bits that one owner of IPv6 addresses has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
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
pub struct AddressLimits {
    /// `--address-connections`.
    pub connections: Option<usize>,
    /// `--address-rate`: requests and messages a second.
    pub rate: Option<u32>,
    /// Requests of clients behind proxies are limited by address, because a proxy's connection is
    /// that of many.
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
    entries: HashMap<Address, Entrant>,
    /// Addresses that had no connections at some time, by when they are looked at again; each once.
    gone: VecDeque<(Instant, Address)>,
}

#[derive(Debug)]
struct Entrant {
    source: Arc<Source>,
    connections: usize,
    /// It is in `gone`.
    queued: bool,
}

/// How fast an address sends.
#[derive(Debug)]
pub struct Source {
    address: Address,
    addresses: Weak<Addresses>,
    rate: Option<Mutex<Rate>>,
    publish: PublishRates,
}

/// One connection or request of an address; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Source>);

impl Addresses {
    pub(super) fn new(limits: AddressLimits, publish: PublishLimits) -> Arc<Self> {
        let publish = if limits.publish {
            publish
        } else {
            PublishLimits::default()
        };
        let memory = if limits.rate.is_some() {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        let memory = memory.max(publish.memory());
        Arc::new(Self {
            limits,
            publish,
            memory,
            known: Mutex::default(),
        })
    }

    /// One more of this address, unless it has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, address: Address) -> Result<Place, Full> {
        let mut known = self.lock();
        known.sweep(self.memory);
        let entry = known.entries.entry(address).or_insert_with(|| {
            let (rate, publish) = (
                self.limits.rate.map(Rate::new).map(Mutex::new),
                PublishRates::new(self.publish),
            );
            let source = Arc::new(Source {
                address,
                addresses: Arc::downgrade(self),
                rate,
                publish,
            });
            Entrant {
                source,
                connections: 0,
                queued: false,
            }
        });
        if self
            .limits
            .connections
            .is_some_and(|limit| entry.connections >= limit)
        {
            return Err(Full::Address);
        }
        entry.connections += 1;
        Ok(Place(entry.source.clone()))
    }

    fn leave(&self, address: Address) {
        let mut known = self.lock();
        let Known { entries, gone } = &mut *known;
        if let Entry::Occupied(mut entry) = entries.entry(address) {
            let known = entry.get_mut();
            known.connections -= 1;
            if known.connections == 0 && self.memory.is_zero() {
                entry.remove();
            } else if known.connections == 0 && !known.queued {
                known.queued = true;
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
    /// Forgets some of those whose time is over.
    fn sweep(&mut self, memory: Duration) {
        let now = Instant::now();
        for _ in 0..SWEPT {
            let over = self.gone.len() > GONE;
            let Some((_, address)) = self.gone.pop_front_if(|(due, _)| *due <= now || over) else {
                return;
            };
            let Entry::Occupied(mut entry) = self.entries.entry(address) else {
                continue;
            };
            let known = entry.get_mut();
            known.queued = false;
            if known.connections > 0 {
                // It is queued again when its last connection goes.
            } else if over || known.source.is_fresh() {
                entry.remove();
            } else {
                known.queued = true;
                self.gone.push_back((now + memory, address));
            }
        }
    }
}

impl Source {
    /// Whether this address may send one more request or message now; if so, that is counted.
    pub fn allows_message(&self) -> bool {
        self.rate
            .as_ref()
            .is_none_or(|rate| rate.lock().unwrap_or_else(PoisonError::into_inner).allows())
    }

    /// How fast clients of proxies may publish by requests.
    pub fn publish_rates(&self) -> &PublishRates {
        &self.publish
    }

    /// Whether nothing would change if it was forgotten.
    fn is_fresh(&self) -> bool {
        let rate = self.rate.as_ref();
        rate.is_none_or(|rate| {
            rate.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_full()
        }) && self.publish.is_fresh()
    }
}

impl Place {
    /// The limits of the address.
    pub fn source(&self) -> &Arc<Source> {
        &self.0
    }
}

impl Drop for Place {
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
        let places = [addresses.enter(ip("::1")), addresses.enter(ip("::2"))];
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(addresses.enter(ip("::3")).err(), Some(Full::Address));
        assert!(addresses.enter(ip("192.0.2.1")).is_ok());
        drop(places);
        assert!(addresses.lock().entries.is_empty() && addresses.lock().gone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_comes_back_finds_its_bucket_as_it_left_it() {
        let addresses = addresses(None, Some(3));
        let place = addresses.enter(ip("192.0.2.1")).expect("no limit");
        assert_eq!(
            (0..5).filter(|_| place.source().allows_message()).count(),
            3
        );
        drop(place);
        let again = addresses.enter(ip("192.0.2.1")).expect("no limit");
        assert!(!again.source().allows_message());
        drop(again);
        advance(Duration::from_secs(2)).await;
        // Somebody else's coming makes it forgotten.
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
