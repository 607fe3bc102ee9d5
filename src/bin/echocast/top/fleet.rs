//! All replicas: which there are, as names resolve now, and when each is asked. Each is asked on
//! its own, so that one that does not answer delays none of the others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use super::figures::Sample;
use super::replica::{self, PATIENCE, Replica};
use super::report::{Report, Row};
use crate::ops;

pub(super) struct Fleet {
    targets: Vec<Target>,
    replicas: BTreeMap<SocketAddr, Replica>,
    /// Questions that are not answered yet.
    asking: JoinSet<Answer>,
}

/// A URL as it was given.
struct Target {
    url: Arc<Url>,
    /// Addresses of its host, as last resolved.
    addresses: Vec<SocketAddr>,
    /// Why it could not be resolved the last time.
    error: Option<String>,
    /// Whether an answer is outstanding.
    asked: bool,
}

enum Answer {
    /// Of the target with this index.
    Addresses(usize, anyhow::Result<Vec<SocketAddr>>),
    Metrics(SocketAddr, anyhow::Result<Sample>),
}

impl Fleet {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        Self {
            targets: urls.into_iter().map(Target::new).collect(),
            replicas: BTreeMap::new(),
            asking: JoinSet::new(),
        }
    }

    /// Resolves all names, and asks all known replicas for their metrics. New ones are asked once
    /// they are found. A question that is not answered yet is not asked again.
    pub(super) fn ask(&mut self) {
        self.forget_gone();
        for index in 0..self.targets.len() {
            self.resolve(index);
        }
        // Replicas that a name does not lead to any more are asked, too: they may be draining.
        let known: Vec<SocketAddr> = self.replicas.keys().copied().collect();
        for address in known {
            self.ask_replica(address);
        }
    }

    fn resolve(&mut self, index: usize) {
        let target = &mut self.targets[index];
        if !mem::replace(&mut target.asked, true) {
            let url = target.url.clone();
            self.asking
                .spawn(async move { Answer::Addresses(index, resolve(&url).await) });
        }
    }

    fn ask_replica(&mut self, address: SocketAddr) {
        let Some(replica) = self.replicas.get_mut(&address) else {
            return;
        };
        if mem::replace(&mut replica.asked, true) {
            return;
        }
        // A task of its own, which a slow replica keeps busy for as long as it takes.
        let url = replica.url.clone();
        self.asking
            .spawn(async move { Answer::Metrics(address, replica::ask(&url, address).await) });
    }

    /// Waits for the next answer; for ever if there is no question. Cancellation-safe.
    pub(super) async fn answer(&mut self) {
        match self.asking.join_next().await {
            Some(Ok(Answer::Addresses(index, found))) => self.resolved(index, found),
            Some(Ok(Answer::Metrics(address, answer))) => self.answered(address, answer),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// Asks all, and waits for all answers.
    pub(super) async fn sample(&mut self) {
        self.ask();
        while self.is_asking() {
            self.answer().await;
        }
    }

    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    fn resolved(&mut self, index: usize, found: anyhow::Result<Vec<SocketAddr>>) {
        let target = &mut self.targets[index];
        target.resolved(found);
        let (url, addresses) = (target.url.clone(), target.addresses.clone());
        for address in addresses {
            self.found(address, &url);
        }
    }

    /// A new replica is asked at once.
    fn found(&mut self, address: SocketAddr, url: &Arc<Url>) {
        if let Entry::Vacant(place) = self.replicas.entry(address) {
            place.insert(Replica::new(url.clone()));
            self.ask_replica(address);
        }
    }

    fn answered(&mut self, address: SocketAddr, answer: anyhow::Result<Sample>) {
        if let Some(replica) = self.replicas.get_mut(&address) {
            replica.answered(answer);
        }
    }

    fn forget_gone(&mut self) {
        let targets = &self.targets;
        self.replicas
            .retain(|address, replica| !replica.is_gone() || is_found(targets, *address));
    }

    /// Replicas first, then names that cannot be resolved.
    pub(super) fn report(&self) -> Report {
        let replicas = self.replicas.iter();
        let replicas = replicas.filter_map(|(address, replica)| self.row(*address, replica));
        let unresolved = self.targets.iter().filter_map(Target::unresolved);
        Report::new(replicas.chain(unresolved).collect())
    }

    fn row(&self, address: SocketAddr, replica: &Replica) -> Option<Row> {
        replica.row(address, is_found(&self.targets, address))
    }
}

impl Target {
    fn new(url: Url) -> Self {
        Self {
            url: Arc::new(url),
            addresses: Vec::new(),
            error: None,
            asked: false,
        }
    }

    fn resolved(&mut self, found: anyhow::Result<Vec<SocketAddr>>) {
        self.asked = false;
        match found {
            Ok(addresses) => (self.addresses, self.error) = (addresses, None),
            // The addresses from before still count: a name server may be away for a moment.
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    fn unresolved(&self) -> Option<Row> {
        Some(Row {
            address: ops::authority(&self.url),
            error: Some(self.error.clone()?),
            node: None,
        })
    }
}

/// Whether a name leads to this address.
fn is_found(targets: &[Target], address: SocketAddr) -> bool {
    targets
        .iter()
        .any(|target| target.addresses.contains(&address))
}

/// All addresses of a host, of one family. With both, each replica would be listed twice.
async fn resolve(url: &Url) -> anyhow::Result<Vec<SocketAddr>> {
    let found = timeout(PATIENCE, lookup_host(ops::authority(url)))
        .await
        .map_err(|_| anyhow!("cannot be resolved in time"))?
        .context("cannot be resolved")?;
    let (v4, v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    Ok(if v4.is_empty() { v6 } else { v4 })
}
