//! The result of a load in numbers: the object that `--json` prints, and the source of the table.
//! Whether the load passed is decided here.

use std::collections::{BTreeMap, HashSet};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::dialect::Dialect;
use super::histogram::{self, Row};
use super::monitor::Snapshot;
use super::outcome::Outcome;
use super::plan::Plan;

/// Above this share of a core, this program itself may have been the slow side.
const BUSY: f64 = 0.9;
/// Below this share of a rate or a time, it was not kept.
const KEPT: f64 = 0.98;
/// Memory is measured in pages, so with fewer connections than this the share of one is not
/// visible.
const FEWEST: usize = 1000;

/// Rates, latencies and CPU times are of the measured part, the checks of the whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Every connection received everything published, once and in one order.
    pub(super) ok: bool,
    #[serde(flatten)]
    pub(super) load: Load,
    pub(super) connect_seconds: f64,
    /// How long was really measured.
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) rates: Rates,
    /// `None` if nothing was received while measuring.
    pub(super) latency_us: Option<Latency>,
    pub(super) histogram: Vec<Row>,
    #[serde(flatten)]
    pub(super) checks: Checks,
    /// `None` without `--pid`.
    pub(super) server: Option<Server>,
    /// CPU cores that this program kept busy, where it can be measured.
    pub(super) own_cores: Option<f64>,
    /// Caveats to read before the numbers.
    pub(super) notes: Vec<String>,
}

/// The load that was asked for.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    pub(super) servers: Vec<String>,
    pub(super) subscribers: usize,
    pub(super) publishers: usize,
    pub(super) silent: usize,
    /// Bytes of a message.
    pub(super) size: usize,
    /// Whether the server was asked to deflate messages.
    pub(super) deflate: bool,
    /// Whether messages were events of Socket.IO.
    pub(super) socket_io: bool,
    /// Messages in flight of each publisher, without a rate.
    pub(super) window: Option<u32>,
    /// Messages a second, if a rate was asked for.
    pub(super) rate: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rates {
    pub(super) deliveries_per_second: f64,
    pub(super) published_per_second: f64,
    /// Received, with frame headers.
    pub(super) bytes_per_second: f64,
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
pub(super) struct Checks {
    pub(super) published: u64,
    /// Messages received, counted once for each connection that received them.
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) out_of_order: u64,
    /// How many different sequences connections received.
    pub(super) orders: usize,
    pub(super) damaged: u64,
    /// Messages that were not of this load.
    pub(super) foreign: u64,
    /// Connections that ended, by reason.
    pub(super) ended: BTreeMap<String, usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Server {
    /// `None` if nothing was delivered.
    pub(super) cpu_us_per_delivery: Option<f64>,
    pub(super) cores: f64,
    pub(super) memory_bytes: u64,
    /// Of an idle connection, before the first message. `None` with too few connections to tell.
    pub(super) memory_bytes_per_connection: Option<u64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let Outcome {
            first, last, tally, ..
        } = outcome;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let mut report = Self {
            ok: false,
            load: Load::new(plan),
            connect_seconds: outcome.connected_in.as_secs_f64(),
            seconds,
            rates: Rates::new(first, last, seconds),
            latency_us: Latency::new(&tally.latencies),
            histogram: histogram::rows(&tally.latencies),
            checks: Checks::new(plan, outcome),
            server: (!plan.processes.is_empty()).then(|| Server::new(plan, outcome, seconds)),
            own_cores: own_cores(first, last, seconds),
            notes: Vec::new(),
        };
        // The verdict and the notes need the numbers above.
        report.ok = report.checks.pass() && !report.checked_nothing();
        report.notes = report.notes(plan.duration.as_secs_f64());
        report
    }

    /// Without publishers this is intended.
    fn checked_nothing(&self) -> bool {
        self.load.publishers > 0 && self.checks.published == 0
    }

    fn notes(&self, planned: f64) -> Vec<String> {
        let nothing = "nothing was published, so nothing was checked";
        let busy = "this program was busy all the time: the server may be faster than this";
        // The load runs on one thread, so one core is all it can use.
        let is_busy = self.own_cores.is_some_and(|cores| cores > BUSY);
        let notes = [
            self.early_end(planned),
            self.checked_nothing().then(|| nothing.to_owned()),
            is_busy.then(|| busy.to_owned()),
            self.missed_rate(),
            self.foreign_messages(),
        ];
        notes.into_iter().flatten().collect()
    }

    fn early_end(&self, planned: f64) -> Option<String> {
        let seconds = self.seconds;
        let note = || format!("the load ended after {seconds:.1} of {planned:.1} s");
        (seconds < planned * KEPT).then(note)
    }

    fn missed_rate(&self) -> Option<String> {
        let rate = self.load.rate?;
        let published = self.rates.published_per_second;
        (published < rate * KEPT)
            .then(|| format!("only {published:.0} of {rate} messages/s could be published"))
    }

    fn foreign_messages(&self) -> Option<String> {
        let foreign = self.checks.foreign;
        (foreign > 0).then(|| format!("{foreign} messages on the channel were not of this load"))
    }
}

impl Load {
    fn new(plan: &Plan) -> Self {
        let message = plan.message;
        let targets = plan.endpoints.iter().map(|endpoint| &endpoint.target);
        Self {
            servers: targets.map(ToString::to_string).collect(),
            subscribers: plan.subscribers,
            publishers: plan.publishers,
            silent: plan.silent,
            size: message.length - message.dialect.overhead(),
            deflate: message.deflate,
            socket_io: message.dialect == Dialect::SocketIo,
            window: plan.pace.window(),
            rate: plan.pace.rate(),
        }
    }
}

impl Rates {
    fn new(first: &Snapshot, last: &Snapshot, seconds: f64) -> Self {
        let rate = |from: u64, to: u64| per_second((to - from) as f64, seconds);
        Self {
            deliveries_per_second: rate(first.deliveries, last.deliveries),
            published_per_second: rate(first.published, last.published),
            bytes_per_second: rate(first.bytes, last.bytes),
        }
    }
}

impl Latency {
    fn new(latencies: &Histogram<u64>) -> Option<Self> {
        (!latencies.is_empty()).then(|| Self {
            p50: latencies.value_at_quantile(0.5),
            p99: latencies.value_at_quantile(0.99),
            p999: latencies.value_at_quantile(0.999),
            max: latencies.max(),
        })
    }
}

impl Checks {
    fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let tally = &outcome.tally;
        let received = &outcome.received;
        let delivered: u64 = received.iter().map(|received| received.messages).sum();
        let orders: HashSet<u64> = received.iter().map(|received| received.order).collect();
        Self {
            published: tally.published,
            delivered,
            // Every connection that subscribes should have received every message.
            lost: tally.published * plan.listeners() as u64 - delivered,
            duplicated: tally.duplicated,
            out_of_order: tally.out_of_order,
            orders: orders.len(),
            damaged: tally.damaged,
            foreign: tally.foreign,
            ended: count_by_reason(&outcome.ended),
        }
    }

    fn pass(&self) -> bool {
        let wrong = self.lost + self.duplicated + self.out_of_order + self.damaged;
        wrong == 0 && self.orders == 1 && self.ended.is_empty()
    }
}

impl Server {
    fn new(plan: &Plan, outcome: &Outcome, seconds: f64) -> Self {
        let Outcome { first, last, .. } = outcome;
        let cpu = last.server_cpu.saturating_sub(first.server_cpu);
        let deliveries = last.deliveries - first.deliveries;
        let connections = plan.listeners() + plan.silent;
        let of_connections = outcome.memory.of_connections;
        Self {
            cpu_us_per_delivery: (deliveries > 0)
                .then(|| cpu.as_secs_f64() * 1e6 / deliveries as f64),
            cores: per_second(cpu.as_secs_f64(), seconds),
            memory_bytes: outcome.memory.max,
            memory_bytes_per_connection: (connections >= FEWEST)
                .then(|| of_connections / connections as u64),
        }
    }
}

fn own_cores(first: &Snapshot, last: &Snapshot, seconds: f64) -> Option<f64> {
    let used = last.own_cpu?.saturating_sub(first.own_cpu?);
    (seconds > 0.0).then(|| used.as_secs_f64() / seconds)
}

/// 0 for a load that was stopped before anything was measured.
fn per_second(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

fn count_by_reason(reasons: &[String]) -> BTreeMap<String, usize> {
    reasons.iter().fold(BTreeMap::new(), |mut counts, reason| {
        *counts.entry(reason.clone()).or_default() += 1;
        counts
    })
}
