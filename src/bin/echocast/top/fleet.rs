//! The replicas: who they are, as names resolve now, and what each answered. It owns the asking,
//! each replica on its own, so that one that hangs keeps nobody waiting.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use hyper::StatusCode;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use super::exposition::Exposition;
use super::report::{Look, Node, Report, Row};
use crate::ops;

/// A node that is well answers in milliseconds; one that is overloaded has something to tell, too.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a replica that neither answers nor is named any more is shown.
const GONE_FOR: Duration = Duration::from_secs(60);

pub(super) struct Fleet {
    targets: Vec<Target>,
    replicas: BTreeMap<SocketAddr, Replica>,
    asking: JoinSet<Answer>,
}

/// A URL as it was given.
struct Target {
    url: Arc<Url>,
    /// Where its host is.
    addresses: Vec<SocketAddr>,
    /// Why that is not known any more.
    error: Option<String>,
    asked: bool,
}

struct Replica {
    /// How it is asked for.
    url: Arc<Url>,
    /// The two last looks, the older first.
    looks: [Option<Look>; 2],
    /// Why there was no answer to the last question, and since when there has been none.
    failed: Option<(Instant, String)>,
    asked: bool,
}

enum Answer {
    Addresses(usize, anyhow::Result<Vec<SocketAddr>>),
    Metrics(SocketAddr, anyhow::Result<Look>),
}

impl Fleet {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        let target = |url| Target {
            url: Arc::new(url),
            addresses: Vec::new(),
            error: None,
            asked: false,
        };
        let targets = urls.into_iter().map(target).collect();
        Self {
            targets,
            replicas: BTreeMap::new(),
            asking: JoinSet::new(),
        }
    }

    /// Asks where all hosts are, and all replicas for their metrics; those that are new once they
    /// are known. Whoever has not answered yet is not asked again.
    pub(super) fn ask(&mut self) {
        self.forget();
        for (at, target) in self.targets.iter_mut().enumerate() {
            if !std::mem::replace(&mut target.asked, true) {
                let url = target.url.clone();
                self.asking
                    .spawn(async move { Answer::Addresses(at, resolve(&url).await) });
            }
        }
        let known: Vec<SocketAddr> = self.replicas.keys().copied().collect();
        known.into_iter().for_each(|address| self.ask_one(address));
    }

    fn ask_one(&mut self, address: SocketAddr) {
        let Some(replica) = self.replicas.get_mut(&address) else {
            return;
        };
        if !std::mem::replace(&mut replica.asked, true) {
            let url = replica.url.clone();
            self.asking
                .spawn(async move { Answer::Metrics(address, look(&url, address).await) });
        }
    }

    /// Waits for the next answer; for ever if nobody is being asked. Cancellation-safe.
    pub(super) async fn answer(&mut self) {
        match self.asking.join_next().await {
            Some(Ok(Answer::Addresses(at, addresses))) => self.resolved(at, addresses),
            Some(Ok(Answer::Metrics(address, look))) => self.looked(address, look),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// Asks, and waits for all answers.
    pub(super) async fn look(&mut self) {
        self.ask();
        while self.is_asking() {
            self.answer().await;
        }
    }

    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    fn resolved(&mut self, at: usize, addresses: anyhow::Result<Vec<SocketAddr>>) {
        let target = &mut self.targets[at];
        target.asked = false;
        match addresses {
            Ok(addresses) => (target.addresses, target.error) = (addresses, None),
            Err(error) => target.error = Some(format!("{error:#}")),
        }
        let (url, addresses) = (target.url.clone(), target.addresses.clone());
        for address in addresses {
            if let Entry::Vacant(place) = self.replicas.entry(address) {
                place.insert(Replica {
                    url: url.clone(),
                    looks: [None, None],
                    failed: None,
                    asked: false,
                });
                self.ask_one(address);
            }
        }
    }

    fn looked(&mut self, address: SocketAddr, look: anyhow::Result<Look>) {
        let Some(replica) = self.replicas.get_mut(&address) else {
            return;
        };
        replica.asked = false;
        match look {
            Ok(look) => {
                replica.looks.rotate_left(1);
                replica.looks[1] = Some(look);
                replica.failed = None;
            }
            Err(error) => {
                let since = replica
                    .failed
                    .take()
                    .map_or_else(Instant::now, |(since, _)| since);
                replica.failed = Some((since, format!("{error:#}")));
                // What it says when it is back is not what happened in the last second.
                replica.looks = [None, None];
            }
        }
    }

    fn forget(&mut self) {
        let targets = &self.targets;
        self.replicas.retain(|address, replica| {
            let long = replica
                .failed
                .as_ref()
                .is_some_and(|(since, _)| since.elapsed() > GONE_FOR);
            !long || is_named(targets, address)
        });
    }

    pub(super) fn report(&self) -> Report {
        let unknown = self.targets.iter().filter_map(|target| {
            Some(Row {
                address: ops::authority(&target.url),
                error: Some(target.error.clone()?),
                node: None,
            })
        });
        let known =
            self.replicas.iter().filter_map(|(address, replica)| {
                let error = replica.failed.as_ref().map(|(_, why)| {
                    match is_named(&self.targets, address) {
                        true => why.clone(),
                        false => format!("no longer resolved, and {why}"),
                    }
                });
                let [before, now] = &replica.looks;
                let node = now.as_ref().map(|now| Node::new(before.as_ref(), now));
                // Who has not answered for the first time is not told of yet.
                (error.is_some() || node.is_some()).then(|| Row {
                    address: address.to_string(),
                    error,
                    node,
                })
            });
        Report::new(known.chain(unknown).collect())
    }
}

fn is_named(targets: &[Target], address: &SocketAddr) -> bool {
    targets
        .iter()
        .any(|target| target.addresses.contains(address))
}

/// All addresses of a host, of one family: with both, each replica would be there twice.
async fn resolve(url: &Url) -> anyhow::Result<Vec<SocketAddr>> {
    let found = timeout(PATIENCE, lookup_host(ops::authority(url))).await;
    let found = found
        .map_err(|_| anyhow!("cannot be resolved in time"))?
        .context("cannot be resolved")?;
    let (v4, v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    Ok(if v4.is_empty() { v6 } else { v4 })
}

async fn look(url: &Url, address: SocketAddr) -> anyhow::Result<Look> {
    let answer = timeout(PATIENCE, ops::get(url, address, "/metrics")).await;
    let (status, text) =
        answer.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))??;
    ensure!(
        status == StatusCode::OK,
        "the answer is {status}: not an ops port?"
    );
    let metrics = Exposition::parse(&text).context("not an ops port?")?;
    Ok(Look {
        at: Instant::now(),
        metrics,
    })
}
