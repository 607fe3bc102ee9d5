//! All replicas at one moment, for tables and scripts. The names in JSON are those of the fields.

use serde::Serialize;

use super::figures::{Figures, Sample, micros};

/// Time of probes through the broker.
const ROUNDTRIP: &str = "echocast_broker_roundtrip_seconds";

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) replicas: Vec<Row>,
    /// Of the replicas that answer.
    pub(super) total: Figures,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Where it was asked.
    pub(super) address: String,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(flatten)]
    pub(super) node: Option<Node>,
}

/// A node that answers.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) version: String,
    pub(super) commit: String,
    pub(super) draining: bool,
    pub(super) broker_up: bool,
    /// Time of a probe through the broker: the mean since the last sample. If there was no probe,
    /// the mean since the node started.
    pub(super) broker_roundtrip_us: Option<u64>,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

impl Report {
    pub(super) fn new(replicas: Vec<Row>) -> Self {
        let mut total = Figures::default();
        for node in replicas.iter().filter_map(|row| row.node.as_ref()) {
            total.add(&node.figures);
        }
        Self { replicas, total }
    }

    /// Number of replicas that answer.
    pub(super) fn answering(&self) -> usize {
        let answering = self.replicas.iter().filter(|row| row.node.is_some());
        answering.count()
    }

    pub(super) fn all_answer(&self) -> bool {
        self.answering() == self.replicas.len() && !self.replicas.is_empty()
    }
}

impl Node {
    pub(super) fn new(before: Option<&Sample>, now: &Sample) -> Self {
        // A node that was restarted counts from 0 again.
        let before = before.filter(|before| started(before) == started(now));
        Self {
            version: build_info(now, "version"),
            commit: build_info(now, "commit"),
            draining: now.metrics.sum("echocast_draining") > 0.0,
            broker_up: now.metrics.sum("echocast_broker_up") > 0.0,
            broker_roundtrip_us: roundtrip(before, now).map(micros),
            figures: Figures::new(before, now),
        }
    }
}

fn started(sample: &Sample) -> f64 {
    sample.metrics.sum("process_start_time_seconds")
}

fn build_info(sample: &Sample, label: &str) -> String {
    let value = sample.metrics.label("echocast_build_info", label);
    value.unwrap_or_default().to_owned()
}

/// In seconds.
fn roundtrip(before: Option<&Sample>, now: &Sample) -> Option<f64> {
    let recent = before.and_then(|before| now.histogram_since(before, ROUNDTRIP).mean());
    // Probes are rarer than samples.
    recent.or_else(|| now.metrics.histogram(ROUNDTRIP).mean())
}
