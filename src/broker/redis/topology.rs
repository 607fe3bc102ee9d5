//! Where channels are: which server publishes and keeps each right now. One server for all never
//! changes; Sentinels and the nodes of a Cluster are asked every second, and at once when somebody
//! has trouble. What follows from a change is the business of those who speak to servers:
//! [`super::subscribers`], [`super::publishers`] and [`super::catch_up`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ConnectionInfo, Value};
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

/// Time between two questions.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The least of it, however much trouble there is.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// How long one of those who know may take; there are others.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// Slots of a Cluster.
const SLOTS: usize = 16384;

/// Knows where channels are, as last heard.
#[derive(Debug)]
pub(super) struct Topology {
    address: RedisAddress,
    tls: Arc<RedisTls>,
    map: watch::Sender<Arc<Map>>,
    trouble: Notify,
}

/// Which server has which channels. There are none in it until somebody has told.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) servers: Vec<Arc<Server>>,
    /// The owner of each slot, as a place in `servers` or beyond if it has none; empty if one
    /// server has everything.
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

    /// A server did not do what it should: it may not be the right one any more.
    pub(super) fn doubt(&self) {
        self.trouble.notify_one();
    }

    /// Asks for ever. `status` learns why nobody could tell.
    pub(super) async fn keep(&self, status: &Status) {
        if self.is_one_server() {
            return std::future::pending().await;
        }
        let mut backoff = Backoff::default();
        let mut asked = None;
        // Whom to ask, counted through all who know.
        let mut next = 0;
        loop {
            match timeout(ASK_PATIENCE, self.ask(&mut asked, next))
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer")))
            {
                Ok(owners) => {
                    backoff.reset();
                    self.draw(owners);
                    sleep(ASK_PAUSE).await;
                    tokio::select! {
                        () = sleep(ASK_INTERVAL) => continue,
                        () = self.trouble.notified() => {}
                    }
                }
                Err(error) => {
                    let pause = backoff.next();
                    warn!(
                        retry_ms = pause.as_millis() as u64,
                        "cannot learn where redis is: {error:#}"
                    );
                    if self.map().servers.is_empty() {
                        status.explain(fitness::reason(&error));
                    }
                    sleep(pause).await;
                }
            }
            // Somebody else may know better.
            (asked, next) = (None, next + 1);
        }
    }

    async fn ask(
        &self,
        asked: &mut Option<(ConnectionInfo, MultiplexedConnection)>,
        next: usize,
    ) -> anyhow::Result<Owners> {
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

    /// Those of the address, and before them the servers of a Cluster, which may have moved away
    /// from there.
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

    /// Draws a new map, if it differs from the old one.
    fn draw(&self, owners: Owners) {
        let before = self.map();
        let mut servers: Vec<Arc<Server>> = Vec::new();
        let mut places = HashMap::new();
        let mut slots = if self.is_cluster() {
            vec![u16::MAX; SLOTS]
        } else {
            Vec::new()
        };
        for (first, last, info) in owners {
            let name = info.addr().to_string();
            let place = *places.entry(name).or_insert_with_key(|name| {
                let known = before
                    .servers
                    .iter()
                    .find(|server| server.name == *name)
                    .cloned();
                servers
                    .push(known.unwrap_or_else(|| Arc::new(Server::new(info, self.tls.clone()))));
                servers.len() - 1
            });
            if let Some(slots) = slots.get_mut(first..=last) {
                slots.fill(place as u16);
            }
        }
        let names =
            |servers: &[Arc<Server>]| servers.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        if names(&before.servers) == names(&servers) && before.slots == slots {
            return;
        }
        info!(
            servers = names(&servers).join(","),
            "channels are there from now on"
        );
        for server in &before.servers {
            if !servers.iter().any(|other| Arc::ptr_eq(server, other)) {
                server.gone.cancel();
            }
        }
        self.map.send_replace(Arc::new(Map { servers, slots }));
    }
}

impl Map {
    /// Who has a channel.
    pub(super) fn owner(&self, name: &ChannelName) -> Option<&Arc<Server>> {
        self.owner_of(name.as_str())
    }

    /// Who has what has this text in braces, or is this text and has no braces.
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

    /// Whether this node hears everything that is published anywhere.
    pub(super) fn is_up(&self) -> bool {
        let whole = self
            .slots
            .iter()
            .all(|place| usize::from(*place) < self.servers.len());
        whole && !self.servers.is_empty() && self.servers.iter().all(|server| *server.up.borrow())
    }
}

/// First and last slot, and how to speak to who has them.
type Owners = Vec<(usize, usize, ConnectionInfo)>;

async fn ask_sentinel(
    connection: &mut MultiplexedConnection,
    service: &str,
    server: &ConnectionInfo,
) -> anyhow::Result<Owners> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer: Option<(String, u16)> = question.query_async(connection).await?;
    let (host, port) =
        answer.ok_or_else(|| Unfit(format!("this sentinel does not know {service:?}")))?;
    Ok(vec![(0, SLOTS - 1, redis_address::at(server, &host, port))])
}

async fn ask_cluster(
    connection: &mut MultiplexedConnection,
    asked: &ConnectionInfo,
) -> anyhow::Result<Owners> {
    let mut questions = redis::pipe();
    questions
        .cmd("CLUSTER")
        .arg("INFO")
        .cmd("CLUSTER")
        .arg("SLOTS");
    let (info, ranges): (String, Vec<Vec<Value>>) = questions.query_async(connection).await?;
    // One that is cut off from most others still believes in the map of that time.
    if !info.contains("cluster_state:ok") {
        return Err(
            Unfit("the cluster is down, or this node is cut off from it".to_owned()).into(),
        );
    }
    let owners: Option<Owners> = ranges.iter().map(|range| owner(range, asked)).collect();
    let owners = owners.context("an answer of an unknown shape")?;
    ensure!(!owners.is_empty(), "nobody has any slot");
    Ok(owners)
}

/// From an answer like `[first, last, [host, port, …], replicas…]`. A node that does not know its
/// own address leaves it out.
fn owner(range: &[Value], asked: &ConnectionInfo) -> Option<(usize, usize, ConnectionInfo)> {
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
    let known = text(Some(host)).filter(|host| !host.is_empty());
    let host = match (known, asked.addr()) {
        (Some(host), _) => host,
        (None, ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host.clone(),
        (None, _) => return None,
    };
    let port = u16::try_from(*port).ok()?;
    Some((
        usize::try_from(*first).ok()?,
        usize::try_from(*last).ok()?,
        redis_address::at(asked, &host, port),
    ))
}

fn text(value: Option<&Value>) -> Option<String> {
    redis::from_redis_value_ref(value?).ok().flatten()
}

/// CRC-16/XMODEM of what decides, as Redis has it.
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
