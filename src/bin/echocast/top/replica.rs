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
                // Rates need only the last two.
                self.samples.rotate_left(1);
                self.samples[1] = Some(sample);
                self.failure = None;
            }
            Err(error) => self.failed(format!("{error:#}")),
        }
    }

    fn failed(&mut self, why: String) {
        // The first failure counts: it decides how long the replica is shown.
        let since = match &self.failure {
            Some(failure) => failure.since,
            None => Instant::now(),
        };
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
        let node = self.node();
        let error = self.error(is_found);
        let has_answered = node.is_some() || error.is_some();
        has_answered.then(|| Row {
            address: address.to_string(),
            error,
            node,
        })
    }

    fn node(&self) -> Option<Node> {
        let [before, now] = &self.samples;
        Some(Node::new(before.as_ref(), now.as_ref()?))
    }

    fn error(&self, is_found: bool) -> Option<String> {
        Some(self.failure.as_ref()?.show(is_found))
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
    let text = get(url, address).await?;
    let metrics = Exposition::parse(&text).context("not an ops port?")?;
    Ok(Sample {
        at: Instant::now(),
        metrics,
    })
}

async fn get(url: &Url, address: SocketAddr) -> anyhow::Result<String> {
    let answer = timeout(PATIENCE, ops::get(url, address, "/metrics"))
        .await
        .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))?;
    let (status, text) = answer?;
    ensure!(
        status == StatusCode::OK,
        "the answer is {status}: not an ops port?"
    );
    Ok(text)
}
