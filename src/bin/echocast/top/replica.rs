//! One replica: how it is asked, and its last answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use hyper::StatusCode;
use tokio::time::timeout;
use url::Url;

use super::exposition::Exposition;
use super::figures::Sample;
use super::report::{Node, Row};
use crate::ops;

/// A healthy node answers in milliseconds. An overloaded one should be shown, too.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// How long a replica is shown that neither answers nor is found by name any more.
const SHOWN_FOR: Duration = Duration::from_secs(60);

pub(super) struct Replica {
    /// As it was given, and so without its address.
    pub(super) url: Arc<Url>,
    /// The last two samples, the older one first.
    samples: [Option<Sample>; 2],
    /// `None` if it answered the last time.
    failure: Option<Failure>,
    /// Whether an answer is outstanding.
    pub(super) asked: bool,
}

/// A replica that does not answer.
struct Failure {
    since: Instant,
    why: String,
}

impl Replica {
    pub(super) fn new(url: Arc<Url>) -> Self {
        Self {
            url,
            samples: [None, None],
            failure: None,
            asked: false,
        }
    }

    pub(super) fn answered(&mut self, answer: anyhow::Result<Sample>) {
        self.asked = false;
        match answer {
            Ok(sample) => {
                self.samples.rotate_left(1);
                self.samples[1] = Some(sample);
                self.failure = None;
            }
            Err(error) => self.failed(format!("{error:#}")),
        }
    }

    fn failed(&mut self, why: String) {
        let since = self
            .failure
            .as_ref()
            .map_or_else(Instant::now, |failure| failure.since);
        self.failure = Some(Failure { since, why });
        // Once it is back, the difference to an old sample is not what happened in a second.
        self.samples = [None, None];
    }

    /// Whether it has failed for so long that it is shown no more, unless its name still leads to
    /// it.
    pub(super) fn is_gone(&self) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|failure| failure.since.elapsed() > SHOWN_FOR)
    }

    /// `None` before its first answer. `is_found`: a name still leads to this address.
    pub(super) fn row(&self, address: SocketAddr, is_found: bool) -> Option<Row> {
        let [before, now] = &self.samples;
        let node = now.as_ref().map(|now| Node::new(before.as_ref(), now));
        let error = self.failure.as_ref().map(|failure| failure.show(is_found));
        if node.is_none() && error.is_none() {
            return None;
        }
        Some(Row {
            address: address.to_string(),
            error,
            node,
        })
    }
}

impl Failure {
    fn show(&self, is_found: bool) -> String {
        if is_found {
            self.why.clone()
        } else {
            format!("no longer resolved, and {}", self.why)
        }
    }
}

/// Asks a node for its metrics.
pub(super) async fn ask(url: &Url, address: SocketAddr) -> anyhow::Result<Sample> {
    let answer = timeout(PATIENCE, ops::get(url, address, "/metrics")).await;
    let (status, text) =
        answer.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))??;
    ensure!(
        status == StatusCode::OK,
        "the answer is {status}: not an ops port?"
    );
    let metrics = Exposition::parse(&text).context("not an ops port?")?;
    Ok(Sample {
        at: Instant::now(),
        metrics,
    })
}
