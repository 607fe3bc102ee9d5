//! Which server has which channel. With one server for all this never changes. Sentinels and the
//! nodes of a Cluster are asked every second, and at once after a failure. The map is watched by
//! those who connect to servers: [`super::subscribers`], [`super::publishers`] and
//! [`super::catch_up`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ConnectionInfo, RedisError, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::super::Status;
use super::Backoff;
use super::fitness::{self, Unfit};
use super::server::{Server, config, connect};
use crate::channel::ChannelName;
use crate::redis_address::tls::RedisTls;
use crate::redis_address::{self, RedisAddress};

/// Time between two looks.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The least of it, after whatever failures.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// How long one node or Sentinel may take to answer; there are others.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// Slots of a Cluster.
const SLOTS: usize = 16384;

/// Which server has which channel, as last learned.
#[derive(Debug)]
pub(super) struct Topology {
    address: RedisAddress,
    tls: Arc<RedisTls>,
    map: watch::Sender<Arc<Map>>,
    trouble: Notify,
}

/// Which server has which channels. Empty until somebody has answered.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) servers: Vec<Arc<Server>>,
    /// The owner of each slot, as an index in `servers`, or beyond them if it has none. Empty if one
    /// server has all channels.
    slots: Vec<u16>,
}

impl Topology {
    pub(super) fn new(address: RedisAddress, tls: RedisTls) -> Self {
        let tls = Arc::new(tls);
        let map = match &address {
            RedisAddress::Server(info) => Map {
                servers: vec![Arc::new(Server::new(info.clone(), tls.clone()))],
                slots: Vec::new(),
            },
            RedisAddress::Sentinel { .. } | RedisAddress::Cluster(_) => Map::default(),
        };
        Self {
            address,
            tls,
            map: watch::Sender::new(Arc::new(map)),
            trouble: Notify::new(),
        }
    }

    /// The map, and when it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Map>> {
        self.map.subscribe()
    }

    pub(super) fn map(&self) -> Arc<Map> {
        self.map.borrow().clone()
    }

    /// The number of the database that has everything.
    pub(super) fn database(&self) -> i64 {
        match &self.address {
            RedisAddress::Server(server) | RedisAddress::Sentinel { server, .. } => {
                server.redis_settings().db()
            }
            RedisAddress::Cluster(_) => 0,
        }
    }

    /// Whether channels are on several servers, and pub/sub is sharded like everything else.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.address, RedisAddress::Cluster(_))
    }

    /// Whether the address names one server, which has all channels.
    pub(super) fn is_one_server(&self) -> bool {
        matches!(self.address, RedisAddress::Server(_))
    }

    /// A server has failed: it may not have its channels any more.
    pub(super) fn doubt(&self) {
        self.trouble.notify_one();
    }

    /// Keeps the map up to date, for ever. `status` learns why nobody could answer.
    pub(super) async fn keep(&self, status: &Status) {
        if self.is_one_server() {
            return std::future::pending().await;
        }
        let mut backoff = Backoff::default();
        let mut asked = None;
        // Which of the nodes or Sentinels is asked.
        let mut next = 0;
        loop {
            let answer = timeout(ASK_PATIENCE, self.ask(&mut asked, next))
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer")));
            match answer {
                Ok(ranges) => {
                    backoff.reset();
                    self.update(ranges);
                    if !self.has_failed_meanwhile().await {
                        continue;
                    }
                }
                Err(error) => {
                    let pause = backoff.next();
                    self.report(&error, pause, status);
                    sleep(pause).await;
                }
            }
            // Another one may know better.
            (asked, next) = (None, next + 1);
        }
    }

    /// Waits until it is time to ask again; returns whether that is because a server has failed.
    async fn has_failed_meanwhile(&self) -> bool {
        sleep(ASK_PAUSE).await;
        tokio::select! {
            () = sleep(ASK_INTERVAL) => false,
            () = self.trouble.notified() => true,
        }
    }

    fn report(&self, error: &anyhow::Error, pause: Duration, status: &Status) {
        warn!(
            retry_ms = pause.as_millis() as u64,
            "cannot learn where redis is: {error:#}"
        );
        if self.map().servers.is_empty() {
            status.explain(fitness::reason(error));
        }
    }

    async fn ask(
        &self,
        asked: &mut Option<(ConnectionInfo, MultiplexedConnection)>,
        next: usize,
    ) -> anyhow::Result<Vec<SlotRange>> {
        // Keep asking the same one, over the same connection, as long as it answers.
        let (info, connection) = match asked {
            Some(asked) => asked,
            None => {
                let info = self.who_knows(next);
                let context = || info.addr().to_string();
                let connection = connect(&info, &self.tls, &config())
                    .await
                    .with_context(context)?;
                asked.insert((info, connection))
            }
        };
        let owners = match &self.address {
            RedisAddress::Sentinel {
                service, server, ..
            } => ask_sentinel(connection, service, server).await,
            RedisAddress::Cluster(_) | RedisAddress::Server(_) => {
                ask_cluster(connection, info).await
            }
        };
        owners.with_context(|| info.addr().to_string())
    }

    /// One of those in the address. In a Cluster, first the servers of the map, which may have moved
    /// away from the address.
    fn who_knows(&self, next: usize) -> ConnectionInfo {
        let known = match &self.address {
            RedisAddress::Cluster(seeds) => {
                let servers = self
                    .map()
                    .servers
                    .iter()
                    .map(|server| server.info.clone())
                    .collect::<Vec<_>>();
                [servers, seeds.clone()].concat()
            }
            RedisAddress::Sentinel { sentinels, .. } => sentinels.clone(),
            RedisAddress::Server(info) => vec![info.clone()],
        };
        known[next % known.len()].clone()
    }

    /// Takes a new map, if it differs from the old one.
    fn update(&self, ranges: Vec<SlotRange>) {
        let before = self.map();
        let server = |info: ConnectionInfo| {
            let name = info.addr().to_string();
            let known = before.servers.iter().find(|server| server.name == name);
            let new = || Arc::new(Server::new(info, self.tls.clone()));
            known.cloned().unwrap_or_else(new)
        };
        // A server that is known stays the same object, with its connections.
        let map = Map::draw(ranges, self.is_cluster(), server);
        if before.names() == map.names() && before.slots == map.slots {
            return;
        }
        info!(
            servers = map.names().join(","),
            "these servers have the channels now"
        );
        // Those that own nothing any more lose their subscriber and publisher.
        for server in &before.servers {
            if !map.servers.iter().any(|other| Arc::ptr_eq(server, other)) {
                server.gone.cancel();
            }
        }
        self.map.send_replace(Arc::new(map));
    }
}

impl Map {
    /// A map of these ranges. `server` finds or makes a server.
    fn draw(
        ranges: Vec<SlotRange>,
        is_cluster: bool,
        server: impl Fn(ConnectionInfo) -> Arc<Server>,
    ) -> Self {
        let mut map = Self::default();
        if is_cluster {
            map.slots = vec![u16::MAX; SLOTS];
        }
        let mut places = HashMap::new();
        for SlotRange { first, last, owner } in ranges {
            let name = owner.addr().to_string();
            let place = *places.entry(name).or_insert_with(|| {
                map.servers.push(server(owner));
                map.servers.len() - 1
            });
            if let Some(slots) = map.slots.get_mut(first..=last) {
                slots.fill(place as u16);
            }
        }
        map
    }

    fn names(&self) -> Vec<&str> {
        self.servers
            .iter()
            .map(|server| server.name.as_str())
            .collect()
    }

    /// The server that has a channel.
    pub(super) fn owner(&self, name: &ChannelName) -> Option<&Arc<Server>> {
        self.owner_of(name.as_str())
    }

    /// The server that has the keys with this text in braces, or the key that is this text.
    pub(super) fn owner_of(&self, tag: &str) -> Option<&Arc<Server>> {
        self.servers.get(self.place(tag))
    }

    /// The owner's place in `servers`, or one beyond them.
    pub(super) fn place(&self, tag: &str) -> usize {
        if self.slots.is_empty() {
            0
        } else {
            usize::from(self.slots[slot(tag)])
        }
    }

    /// Whether this node receives everything that is published anywhere.
    pub(super) fn is_up(&self) -> bool {
        let whole = self
            .slots
            .iter()
            .all(|place| usize::from(*place) < self.servers.len());
        whole && !self.servers.is_empty() && self.servers.iter().all(|server| *server.up.borrow())
    }
}

/// Whether this is the answer of a Cluster's node that does not have the channel, or not at the
/// moment.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
    )
}

/// Neighbouring slots of one server.
struct SlotRange {
    first: usize,
    last: usize,
    /// How to connect to the server that has them.
    owner: ConnectionInfo,
}

async fn ask_sentinel(
    connection: &mut MultiplexedConnection,
    service: &str,
    server: &ConnectionInfo,
) -> anyhow::Result<Vec<SlotRange>> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer: Option<(String, u16)> = question.query_async(connection).await?;
    let (host, port) =
        answer.ok_or_else(|| Unfit(format!("this sentinel does not know {service:?}")))?;
    Ok(vec![SlotRange {
        first: 0,
        last: SLOTS - 1,
        owner: redis_address::at(server, &host, port),
    }])
}

async fn ask_cluster(
    connection: &mut MultiplexedConnection,
    asked: &ConnectionInfo,
) -> anyhow::Result<Vec<SlotRange>> {
    let mut questions = redis::pipe();
    questions
        .cmd("CLUSTER")
        .arg("INFO")
        .cmd("CLUSTER")
        .arg("SLOTS");
    let (info, ranges): (String, Vec<Vec<Value>>) = questions.query_async(connection).await?;
    // A node that is cut off from most others still has the map of that time.
    if !info.contains("cluster_state:ok") {
        return Err(
            Unfit("the cluster is down, or this node is cut off from it".to_owned()).into(),
        );
    }
    let ranges: Option<Vec<SlotRange>> = ranges
        .iter()
        .map(|range| SlotRange::read(range, asked))
        .collect();
    let ranges = ranges.context("an answer of an unknown shape")?;
    ensure!(!ranges.is_empty(), "nobody has any slot");
    Ok(ranges)
}

impl SlotRange {
    /// From an answer like `[first, last, [host, port, …], replicas…]`.
    fn read(range: &[Value], asked: &ConnectionInfo) -> Option<Self> {
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(master),
            ..,
        ] = range
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = &master[..] else {
            return None;
        };
        let host = text(Some(host))
            .filter(|host| !host.is_empty())
            .or_else(|| own_host(asked))?;
        Some(Self {
            first: usize::try_from(*first).ok()?,
            last: usize::try_from(*last).ok()?,
            owner: redis_address::at(asked, &host, u16::try_from(*port).ok()?),
        })
    }
}

/// The host of the node that answered. A node that does not know its own address leaves it out.
fn own_host(asked: &ConnectionInfo) -> Option<String> {
    match asked.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    redis::from_redis_value_ref(value?).ok().flatten()
}

/// CRC-16/XMODEM of the hash tag, as Redis computes it.
fn slot(tag: &str) -> usize {
    let crc = tag.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(
            (slot("123456789"), slot("foo"), slot("bar")),
            (0x31c3, 12182, 5061)
        );
    }
}
