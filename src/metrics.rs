//! Every metric of a node, one field each; its doc comment and its help text say the same. One registry a node, no
//! globals, so that several nodes can live in one process. Hot paths count once per batch or per read, not per message.

use prometheus::core::{AtomicU64, GenericCounter, GenericCounterVec};
use prometheus::{HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::budget::Part;

/// A number that only grows.
pub type Counter = GenericCounter<AtomicU64>;
/// A number that goes up and down.
pub type Gauge = prometheus::IntGauge;
/// A distribution.
pub type Histogram = prometheus::Histogram;
type Counters = GenericCounterVec<AtomicU64>;

/// Ways to reach clients.
const TRANSPORTS: [&str; 3] = ["websocket", "sse", "http"];

/// Seconds from 50 µs to about 13 s, doubling.
fn latency_buckets() -> Vec<f64> {
    (0..19).map(|power| 50e-6 * f64::from(1u32 << power)).collect()
}

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What goes over WebSockets.
    pub websocket: Transport,
    /// What goes over event streams.
    pub events: Transport,
    /// What goes over single requests.
    pub http: Transport,
    /// Clients that may be connected at once; 0 is no limit.
    pub connections_limit: Gauge,
    /// Connections refused before they were clients, by reason.
    pub handshakes_refused: Counters,
    /// Channels with a client on this node, or lately with one.
    pub channels: Gauge,
    /// Messages that came from the broker.
    pub messages_relayed: Counter,
    /// Messages known to be lost, by cause.
    pub messages_lost: Counters,
    /// Messages that a node had missed and got from the history.
    pub messages_recovered: Counter,
    /// Clients that came back for what they missed, by whether nothing was missing.
    pub resumes: Counters,
    /// Readers that lagged out of their channel's feed, by what was done with them.
    pub slow_clients: Counters,
    /// Messages said on this node and not yet held by the broker.
    pub inbox_depth: Gauge,
    /// Messages in a batch given to the broker.
    pub batch_messages: Histogram,
    /// Seconds from taking a batch out of the inbox until the broker holds it.
    pub publish_seconds: Histogram,
    /// Seconds from a batch's publish time until this node's feed has it.
    pub relay_seconds: Histogram,
    /// Seconds from a batch's publish time until its bytes are handed to the kernel; one delivery in 16 is measured, replays are not.
    pub delivery_seconds: Histogram,
    /// 1 while the broker is reachable.
    pub broker_up: Gauge,
    /// Seconds for a probe to go through the broker and come back.
    pub broker_roundtrip: Histogram,
    /// Times the broker's connection was lost and made again.
    pub broker_reconnects: Counter,
    /// Bytes held in feeds.
    pub feed_bytes: Gauge,
    /// Bytes that messages take in this node, by part.
    pub memory: IntGaugeVec,
    /// Bytes that messages may take in this node: `--memory`.
    pub memory_limit: Gauge,
    /// Bytes that were given up because the memory budget was short, by what they were.
    pub memory_shed: Counters,
    /// 1 from the stop signal on.
    pub draining: Gauge,
}

/// What is counted of one way to reach clients.
#[derive(Debug)]
pub struct Transport {
    /// Connections that are open now; those of requests are `http`.
    pub connections: Gauge,
    /// Clients that have connected.
    pub opened: Counter,
    /// Messages from this node's clients.
    pub received: Counter,
    /// Bytes read from clients: from the sockets of WebSockets, else of requests' bodies.
    pub received_bytes: Counter,
    /// Messages written to clients: one message to a thousand clients counts a thousand.
    pub delivered: Counter,
    /// Bytes written to clients: to the sockets of WebSockets, else of answers' bodies.
    pub sent_bytes: Counter,
    label: &'static str,
    closed: Counters,
}

/// A connection's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// WebSockets.
    WebSocket,
    /// Event streams.
    Events,
    /// HTTP, until it becomes one of the others.
    Http,
}

impl Transport {
    /// Counts a client that has gone.
    pub fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[self.label, reason]).inc();
    }
}

/// Memory that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Of channels without clients.
    Idle,
    /// Of the largest feeds.
    Feeds,
}

/// Why a message is known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// A reader was skipped ahead (`--slow-client skip`).
    SlowClient,
    /// A publishing node's numbers jumped: Redis delivered nothing in between.
    Broker,
    /// A payload with the magic that could not be read; counted as one message.
    Malformed,
    /// Batches of another history than the one that Redis holds: of another deployment, replayed, or forged.
    Foreign,
    /// The node ended before the broker took it.
    Shutdown,
    /// Redis would not have it, and nobody could be told.
    Refused,
}

impl LossCause {
    const ALL: [Self; 6] =
        [Self::SlowClient, Self::Broker, Self::Malformed, Self::Foreign, Self::Shutdown, Self::Refused];

    fn label(self) -> &'static str {
        match self {
            Self::SlowClient => "slow_client",
            Self::Broker => "broker",
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::Shutdown => "shutdown",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// All of them at zero, registered. `closed_reasons` (of WebSockets), `refused_reasons` and `slow_policies` are the values their
    /// labels can have, so that every series exists from the start.
    pub fn new(closed_reasons: &[&str], refused_reasons: &[&str], slow_policies: &[&str]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Make(&registry);
        let connections = make.gauges("echocast_connections", "Clients connected now.", &["transport"])?;
        let closed = make.counters(
            "echocast_connections_closed_total",
            "Clients that have gone, by reason.",
            &["transport", "reason"],
        )?;
        let counters = |name, help| make.counters(name, help, &["transport"]);
        let opened = counters("echocast_connections_opened_total", "Clients that have connected.")?;
        let received = counters("echocast_messages_received_total", "Messages from this node's clients.")?;
        let received_bytes = counters(
            "echocast_received_bytes_total",
            "Bytes read from clients: from the sockets of WebSockets, else of requests' bodies.",
        )?;
        let delivered = counters(
            "echocast_messages_delivered_total",
            "Messages written to clients: one message to a thousand clients counts a thousand.",
        )?;
        let sent_bytes = counters(
            "echocast_sent_bytes_total",
            "Bytes written to clients: to the sockets of WebSockets, else of answers' bodies.",
        )?;
        let [websocket, events, http] = TRANSPORTS.map(|label| Transport {
            connections: connections.with_label_values(&[label]),
            opened: opened.with_label_values(&[label]),
            received: received.with_label_values(&[label]),
            received_bytes: received_bytes.with_label_values(&[label]),
            delivered: delivered.with_label_values(&[label]),
            sent_bytes: sent_bytes.with_label_values(&[label]),
            label,
            closed: closed.clone(),
        });
        let build =
            make.gauges("echocast_build_info", "Always 1; the labels say what is running.", &["version", "commit"])?;
        build.with_label_values(&[crate::VERSION, crate::COMMIT]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self {
            websocket,
            events,
            http,
            connections_limit: make.gauge(
                "echocast_connections_limit",
                "Clients that may be connected at once (--max-connections); 0 is no limit.",
            )?,
            handshakes_refused: make.counters(
                "echocast_handshakes_refused_total",
                "Connections refused before they were clients, by reason.",
                &["reason"],
            )?,
            channels: make.gauge("echocast_channels", "Channels with a client on this node, or lately with one.")?,
            messages_relayed: make.counter("echocast_messages_relayed_total", "Messages that came from the broker.")?,
            messages_lost: make.counters(
                "echocast_messages_lost_total",
                "Messages known to be lost, by cause.",
                &["cause"],
            )?,
            messages_recovered: make.counter(
                "echocast_messages_recovered_total",
                "Messages that this node had missed and got from the history.",
            )?,
            resumes: make.counters(
                "echocast_resumes_total",
                "Clients that came back for what they missed: recovered, or gap if something was gone.",
                &["result"],
            )?,
            slow_clients: make.counters(
                "echocast_slow_clients_total",
                "Readers that lagged out of their channel's feed, by what was done with them.",
                &["policy"],
            )?,
            inbox_depth: make
                .gauge("echocast_inbox_depth", "Messages said on this node and not yet held by the broker.")?,
            batch_messages: make.histogram(
                "echocast_batch_messages",
                "Messages in a batch given to the broker.",
                (0..13).map(|power| f64::from(1u32 << power)).collect(),
            )?,
            publish_seconds: make.histogram(
                "echocast_publish_seconds",
                "Seconds from taking a batch out of the inbox until the broker holds it.",
                latency_buckets(),
            )?,
            relay_seconds: make.histogram(
                "echocast_relay_seconds",
                "Seconds from a batch's publish time until this node's feed has it.",
                latency_buckets(),
            )?,
            delivery_seconds: make.histogram(
                "echocast_delivery_seconds",
                "Seconds from a batch's publish time until its bytes are handed to the kernel; one delivery in 16 is measured, replays are not.",
                latency_buckets(),
            )?,
            broker_up: make.gauge("echocast_broker_up", "1 while the broker is reachable.")?,
            broker_roundtrip: make.histogram(
                "echocast_broker_roundtrip_seconds",
                "Seconds for a probe to go through the broker and come back.",
                latency_buckets(),
            )?,
            broker_reconnects: make.counter(
                "echocast_broker_reconnects_total",
                "Times the broker's connection was lost and made again.",
            )?,
            feed_bytes: make.gauge("echocast_feed_bytes", "Bytes held in feeds.")?,
            memory: make.gauges(
                "echocast_memory_bytes",
                "Bytes that messages take in this node, by part.",
                &["part"],
            )?,
            memory_limit: make.gauge(
                "echocast_memory_limit",
                "Bytes that messages may take in this node (--memory).",
            )?,
            memory_shed: make.counters(
                "echocast_memory_shed_bytes_total",
                "Bytes given up because the memory budget was short: of idle channels, or of the largest feeds.",
                &["what"],
            )?,
            draining: make.gauge("echocast_draining", "1 from the stop signal on.")?,
            registry,
        };
        for reason in closed_reasons {
            closed.with_label_values(&[metrics.websocket.label, reason]);
        }
        for reason in refused_reasons {
            metrics.handshakes_refused.with_label_values(&[reason]);
        }
        for recovered in [true, false] {
            metrics.resumed(recovered, 0);
        }
        for policy in slow_policies {
            metrics.slow_clients.with_label_values(&[policy]);
        }
        for part in Part::ALL {
            metrics.memory.with_label_values(&[part.label()]);
        }
        for what in [Shed::Idle, Shed::Feeds] {
            metrics.shed(what, 0);
        }
        for cause in LossCause::ALL {
            metrics.messages_lost.with_label_values(&[cause.label()]);
        }
        Ok(metrics)
    }

    /// What goes this way.
    pub fn of(&self, way: Way) -> &Transport {
        match way {
            Way::WebSocket => &self.websocket,
            Way::Events => &self.events,
            Way::Http => &self.http,
        }
    }

    /// Counts clients that came back for what they missed.
    pub fn resumed(&self, recovered: bool, clients: u64) {
        self.resumes.with_label_values(&[if recovered { "recovered" } else { "gap" }]).inc_by(clients);
    }

    /// Counts messages known to be lost.
    pub fn lost(&self, cause: LossCause, messages: u64) {
        self.messages_lost.with_label_values(&[cause.label()]).inc_by(messages);
    }

    /// Counts bytes that were given up to make room.
    pub fn shed(&self, what: Shed, bytes: usize) {
        let label = match what {
            Shed::Idle => "idle",
            Shed::Feeds => "feeds",
        };
        self.memory_shed.with_label_values(&[label]).inc_by(bytes as u64);
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Makes metrics and registers them.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Counters> {
        let made = Counters::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<Counter> {
        let made = Counter::new(name, help)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        let made = Gauge::new(name, help)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<Histogram> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[])?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made.with_label_values::<&str>(&[]))
    }
}
