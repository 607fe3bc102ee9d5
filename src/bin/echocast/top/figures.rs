//! Figures that nodes have in common, computed from two samples, and their sum. The names in JSON
//! are those of the fields.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Serialize, Serializer};

use super::exposition::Exposition;
use super::histogram::Histogram;

/// The metrics of a node at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) metrics: Exposition,
}

/// Rates and latencies are of the time between two samples, so there are none after the first.
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

impl Figures {
    pub(super) fn new(before: Option<&Sample>, now: &Sample) -> Self {
        // Counters only have a meaning as a difference.
        let rate = |name| now.rate_since(before?, name);
        let between = |name| match before {
            Some(before) => now.histogram_since(before, name),
            None => Histogram::default(),
        };
        Self {
            connections: now.metrics.by("echocast_connections", "transport"),
            messages_in_per_second: rate("echocast_messages_received_total"),
            messages_out_per_second: rate("echocast_messages_delivered_total"),
            bytes_in_per_second: rate("echocast_received_bytes_total"),
            bytes_out_per_second: rate("echocast_sent_bytes_total"),
            relay: between("echocast_relay_seconds"),
            delivery: between("echocast_delivery_seconds"),
            inbox_depth: now.metrics.sum("echocast_inbox_depth") as u64,
            lost: now.metrics.by("echocast_messages_lost_total", "cause"),
            lost_per_second: rate("echocast_messages_lost_total"),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        // Counts, rates and histograms of nodes add up. Quantiles would not, so they are computed
        // from the sum.
        for (sum, rate) in self.rates().into_iter().zip(other.clone().rates()) {
            add_rate(sum, *rate);
        }
        add_counts(&mut self.connections, &other.connections);
        add_counts(&mut self.lost, &other.lost);
        self.relay.add(&other.relay);
        self.delivery.add(&other.delivery);
        self.inbox_depth += other.inbox_depth;
    }

    fn rates(&mut self) -> [&mut Option<f64>; 5] {
        [
            &mut self.messages_in_per_second,
            &mut self.messages_out_per_second,
            &mut self.bytes_in_per_second,
            &mut self.bytes_out_per_second,
            &mut self.lost_per_second,
        ]
    }
}

impl Sample {
    fn rate_since(&self, before: &Self, name: &str) -> Option<f64> {
        let seconds = (self.at - before.at).as_secs_f64();
        let difference = self.metrics.sum(name) - before.metrics.sum(name);
        (seconds > 0.0).then(|| difference / seconds)
    }

    pub(super) fn histogram_since(&self, before: &Self, name: &str) -> Histogram {
        let before = before.metrics.histogram(name);
        self.metrics.histogram(name).since(&before)
    }
}

/// A node without a rate, which has just started, adds nothing.
fn add_rate(sum: &mut Option<f64>, rate: Option<f64>) {
    if let Some(rate) = rate {
        *sum.get_or_insert_default() += rate;
    }
}

fn add_counts(sums: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (label, count) in counts {
        *sums.entry(label.clone()).or_default() += count;
    }
}

impl Histogram {
    /// 99th percentile in microseconds.
    pub(super) fn p99_us(&self) -> Option<u64> {
        self.quantile(0.99).map(micros)
    }
}

fn p99<S: Serializer>(histogram: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    histogram.p99_us().serialize(serializer)
}

pub(super) fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}
