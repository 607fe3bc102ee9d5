//! What a load showed, in numbers: the object that `--json` prints, and what the table is made
//! from. Whether everybody heard the truth is decided here.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::dialect::Dialect;
use super::histogram::{self, Row};
use super::load::Outcome;
use super::plan::{Pace, Plan};

/// Above this part of a core the load itself may have been what was slow.
const BUSY: f64 = 0.9;
/// Below this part of the rate that was asked for, the rate was not kept.
const KEPT: f64 = 0.98;
/// Memory comes in pages: what one of fewer connections takes is not to be seen.
const FEWEST: usize = 1000;

/// Rates, latencies and processor times are of the measured part; what was heard, of the whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Everything published was heard once and in one order by everybody.
    pub(super) ok: bool,
    pub(super) servers: Vec<String>,
    pub(super) subscribers: usize,
    pub(super) publishers: usize,
    pub(super) silent: usize,
    /// Bytes of a message.
    pub(super) size: usize,
    /// Whether the server was asked to deflate them.
    pub(super) deflate: bool,
    /// Whether messages were events of Socket.IO.
    pub(super) socket_io: bool,
    /// Messages a publisher has on their way, in a closed loop.
    pub(super) window: Option<u32>,
    /// Messages a second that were asked for, in an open loop.
    pub(super) rate: Option<f64>,
    pub(super) connect_seconds: f64,
    /// How long was really measured.
    pub(super) seconds: f64,
    pub(super) deliveries_per_second: f64,
    pub(super) published_per_second: f64,
    /// Received, with frame headers.
    pub(super) bytes_per_second: f64,
    /// `None` if nothing was heard while measuring.
    pub(super) latency_us: Option<Latency>,
    pub(super) histogram: Vec<Row>,
    pub(super) published: u64,
    /// Messages heard, once for each who heard it.
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) out_of_order: u64,
    /// How many different sequences were heard.
    pub(super) orders: usize,
    pub(super) damaged: u64,
    /// Messages that were not of this load.
    pub(super) foreign: u64,
    /// Connections that ended, by reason.
    pub(super) ended: BTreeMap<String, usize>,
    /// If its processes were named.
    pub(super) server: Option<Server>,
    /// Processor cores this program kept busy, where that can be known.
    pub(super) own_cores: Option<f64>,
    /// What to know before believing the numbers.
    pub(super) notes: Vec<String>,
}

/// Microseconds from publish to receipt.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Server {
    /// `None` if nothing was delivered.
    pub(super) cpu_us_per_delivery: Option<f64>,
    pub(super) cores: f64,
    pub(super) memory_bytes: u64,
    /// Before anything was said; `None` with too few connections to tell.
    pub(super) memory_bytes_per_connection: Option<u64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let Outcome {
            first, last, tally, ..
        } = outcome;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let per_second = |from: u64, to: u64| {
            if seconds > 0.0 {
                (to - from) as f64 / seconds
            } else {
                0.0
            }
        };
        let deliveries = last.deliveries - first.deliveries;
        let delivered: u64 = outcome.heard.iter().sum();
        let mut ended = BTreeMap::new();
        for reason in outcome.ended.iter().cloned() {
            *ended.entry(reason).or_default() += 1;
        }
        let server = (!plan.processes.is_empty()).then(|| {
            let cpu = last
                .server_cpu
                .saturating_sub(first.server_cpu)
                .as_secs_f64();
            Server {
                cpu_us_per_delivery: (deliveries > 0).then(|| cpu * 1e6 / deliveries as f64),
                cores: if seconds > 0.0 { cpu / seconds } else { 0.0 },
                memory_bytes: outcome.memory_max,
                memory_bytes_per_connection: Some(plan.listeners() + plan.silent)
                    .filter(|connections| *connections >= FEWEST)
                    .map(|connections| outcome.memory_of_connections / connections as u64),
            }
        });
        let own_cpu = first.own_cpu.zip(last.own_cpu).filter(|_| seconds > 0.0);
        let (window, rate) = match plan.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        let mut report = Self {
            ok: false,
            servers: plan
                .endpoints
                .iter()
                .map(|endpoint| endpoint.target.to_string())
                .collect(),
            subscribers: plan.subscribers,
            publishers: plan.publishers,
            silent: plan.silent,
            size: plan.message.length - plan.message.dialect.around(),
            deflate: plan.message.deflate,
            socket_io: plan.message.dialect == Dialect::SocketIo,
            window,
            rate,
            connect_seconds: outcome.connected_in.as_secs_f64(),
            seconds,
            deliveries_per_second: per_second(first.deliveries, last.deliveries),
            published_per_second: per_second(first.published, last.published),
            bytes_per_second: per_second(first.bytes, last.bytes),
            latency_us: (!tally.latencies.is_empty()).then(|| Latency {
                p50: tally.latencies.value_at_quantile(0.5),
                p99: tally.latencies.value_at_quantile(0.99),
                p999: tally.latencies.value_at_quantile(0.999),
                max: tally.latencies.max(),
            }),
            histogram: histogram::rows(&tally.latencies),
            published: tally.published,
            delivered,
            lost: tally.published * plan.listeners() as u64 - delivered,
            duplicated: tally.duplicated,
            out_of_order: tally.out_of_order,
            orders: outcome.orders.iter().collect::<HashSet<_>>().len(),
            damaged: tally.damaged,
            foreign: tally.foreign,
            ended,
            server,
            own_cores: own_cpu
                .map(|(first, last)| last.saturating_sub(first).as_secs_f64() / seconds),
            notes: Vec::new(),
        };
        report.ok = report.is_true();
        report.notes = report.notes();
        if seconds < plan.duration.as_secs_f64() * KEPT {
            let planned = plan.duration.as_secs_f64();
            report.notes.insert(
                0,
                format!("it was over after {seconds:.1} of {planned:.1} s"),
            );
        }
        report
    }

    pub(super) fn is_true(&self) -> bool {
        let wrong = self.lost + self.duplicated + self.out_of_order + self.damaged;
        wrong == 0 && self.orders == 1 && self.ended.is_empty() && !self.checked_nothing()
    }

    fn checked_nothing(&self) -> bool {
        self.publishers > 0 && self.published == 0
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.checked_nothing() {
            notes.push("nothing was published, so nothing was checked".to_owned());
        }
        if self.own_cores.is_some_and(|cores| cores > BUSY) {
            notes.push(
                "this program was busy all the time: the server may be faster than this".to_owned(),
            );
        }
        if let Some(rate) = self
            .rate
            .filter(|rate| self.published_per_second < rate * KEPT)
        {
            notes.push(format!(
                "{:.0} of {rate} messages/s could be published",
                self.published_per_second
            ));
        }
        if self.foreign > 0 {
            notes.push(format!(
                "{} messages on the channel were not of this load",
                self.foreign
            ));
        }
        notes
    }
}
