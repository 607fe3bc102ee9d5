//! What two looks at the replicas say, for tables and scripts. It owns the arithmetic; the names in
//! JSON are its fields'.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Serialize, Serializer};

use super::exposition::{Exposition, Histogram};

/// All replicas at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) replicas: Vec<Row>,
    /// Of those that answer.
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

/// What only a single node has.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) version: String,
    pub(super) commit: String,
    pub(super) draining: bool,
    pub(super) broker_up: bool,
    /// A probe's way through the broker: the mean since the last look, or, if there was none, since
    /// the node started.
    pub(super) broker_roundtrip_us: Option<u64>,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// What nodes have together. Rates and latencies are those between two looks, so there are none
/// after the first.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    /// By transport.
    pub(super) connections: BTreeMap<String, u64>,
    pub(super) messages_in_per_second: Option<f64>,
    pub(super) messages_out_per_second: Option<f64>,
    pub(super) bytes_in_per_second: Option<f64>,
    pub(super) bytes_out_per_second: Option<f64>,
    #[serde(rename = "relay_p99_us", serialize_with = "p99")]
    pub(super) relay: Histogram,
    #[serde(rename = "delivery_p99_us", serialize_with = "p99")]
    pub(super) delivery: Histogram,
    pub(super) inbox_depth: u64,
    /// Messages by cause, since the nodes started.
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) lost_per_second: Option<f64>,
}

/// One look at a node.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) metrics: Exposition,
}

impl Report {
    pub(super) fn new(replicas: Vec<Row>) -> Self {
        let mut total = Figures::default();
        replicas
            .iter()
            .filter_map(|row| row.node.as_ref())
            .for_each(|node| total.add(&node.figures));
        Self { replicas, total }
    }

    pub(super) fn answering(&self) -> usize {
        self.replicas
            .iter()
            .filter(|row| row.node.is_some())
            .count()
    }

    pub(super) fn all_answer(&self) -> bool {
        self.answering() == self.replicas.len() && !self.replicas.is_empty()
    }
}

impl Node {
    pub(super) fn new(before: Option<&Look>, now: &Look) -> Self {
        let label = |name| {
            now.metrics
                .label("echocast_build_info", name)
                .unwrap_or_default()
                .to_owned()
        };
        // A node that has been started again has counted from 0 again.
        let started = |look: &Look| look.metrics.sum("process_start_time_seconds");
        let before = before.filter(|before| started(before) == started(now));
        let probes = now.metrics.histogram("echocast_broker_roundtrip_seconds");
        let lately = before.and_then(|before| {
            probes
                .clone()
                .since(
                    &before
                        .metrics
                        .histogram("echocast_broker_roundtrip_seconds"),
                )
                .mean()
        });
        Self {
            version: label("version"),
            commit: label("commit"),
            draining: now.metrics.sum("echocast_draining") > 0.0,
            broker_up: now.metrics.sum("echocast_broker_up") > 0.0,
            broker_roundtrip_us: lately.or_else(|| probes.mean()).map(micros),
            figures: Figures::new(before, now),
        }
    }
}

impl Figures {
    fn new(before: Option<&Look>, now: &Look) -> Self {
        let rate = |name| {
            let before = before?;
            let seconds = (now.at - before.at).as_secs_f64();
            Some((now.metrics.sum(name) - before.metrics.sum(name)) / seconds)
        };
        let lately = |name| {
            let before = before.map(|before| before.metrics.histogram(name));
            before
                .map(|before| now.metrics.histogram(name).since(&before))
                .unwrap_or_default()
        };
        Self {
            connections: now.metrics.by("echocast_connections", "transport"),
            messages_in_per_second: rate("echocast_messages_received_total"),
            messages_out_per_second: rate("echocast_messages_delivered_total"),
            bytes_in_per_second: rate("echocast_received_bytes_total"),
            bytes_out_per_second: rate("echocast_sent_bytes_total"),
            relay: lately("echocast_relay_seconds"),
            delivery: lately("echocast_delivery_seconds"),
            inbox_depth: now.metrics.sum("echocast_inbox_depth") as u64,
            lost: now.metrics.by("echocast_messages_lost_total", "cause"),
            lost_per_second: rate("echocast_messages_lost_total"),
        }
    }

    fn add(&mut self, other: &Self) {
        let add = |sum: &mut Option<f64>, rate: Option<f64>| {
            if let Some(rate) = rate {
                *sum.get_or_insert_default() += rate;
            }
        };
        add(
            &mut self.messages_in_per_second,
            other.messages_in_per_second,
        );
        add(
            &mut self.messages_out_per_second,
            other.messages_out_per_second,
        );
        add(&mut self.bytes_in_per_second, other.bytes_in_per_second);
        add(&mut self.bytes_out_per_second, other.bytes_out_per_second);
        add(&mut self.lost_per_second, other.lost_per_second);
        for (sums, counts) in [
            (&mut self.connections, &other.connections),
            (&mut self.lost, &other.lost),
        ] {
            for (label, count) in counts {
                *sums.entry(label.clone()).or_default() += count;
            }
        }
        self.relay.add(&other.relay);
        self.delivery.add(&other.delivery);
        self.inbox_depth += other.inbox_depth;
    }
}

impl Histogram {
    pub(super) fn p99_us(&self) -> Option<u64> {
        self.quantile(0.99).map(micros)
    }
}

fn p99<S: Serializer>(histogram: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    histogram.p99_us().serialize(serializer)
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}
