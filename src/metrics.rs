//! Every metric of a node, one field each, whose doc comment is the metric's help text. One
//! registry a node, no globals, so that several nodes can live in one process. Hot paths count once
//! per batch or per read, not per message.

mod register;

use prometheus::core::{AtomicU64, GenericCounter, GenericCounterVec};
use prometheus::{IntGaugeVec, Registry, TextEncoder};

use self::register::{doubling, registered};

/// A number that only grows.
pub(crate) type Counter = GenericCounter<AtomicU64>;
/// A number that goes up and down.
pub(crate) type Gauge = prometheus::IntGauge;
/// A distribution.
pub(crate) type Histogram = prometheus::Histogram;
/// Counters with labels.
pub(crate) type Counters = GenericCounterVec<AtomicU64>;
/// Gauges with labels.
pub(crate) type Gauges = IntGaugeVec;

/// Labels of the transports.
const TRANSPORTS: [&str; 3] = ["websocket", "sse", "http"];

/// Seconds from 50 µs to about 13 s.
fn latencies() -> Vec<f64> {
    doubling(50e-6, 19)
}

registered! {
    /// Metrics by transport, of which each [`TransportMetrics`] has its own.
    struct ByTransport {
        /// Clients connected now.
        connections: Gauges = "echocast_connections", &["transport"];
        /// Clients that have connected.
        opened: Counters = "echocast_connections_opened_total", &["transport"];
        /// Clients that have disconnected, by reason.
        closed: Counters = "echocast_connections_closed_total", &["transport", "reason"];
        /// Messages from this node's clients.
        received: Counters = "echocast_messages_received_total", &["transport"];
        /// Bytes read from clients: from the sockets of WebSockets, else of requests' bodies.
        received_bytes: Counters = "echocast_received_bytes_total", &["transport"];
        /// Messages written to clients: one message to a thousand clients counts a thousand.
        delivered: Counters = "echocast_messages_delivered_total", &["transport"];
        /// Bytes written to clients: to the sockets of WebSockets, else of answers' bodies.
        sent_bytes: Counters = "echocast_sent_bytes_total", &["transport"];
    }
}

registered! {
    /// The metrics of one node.
    pub(crate) struct Metrics {
        /// Clients that may be connected at once (--max-connections); 0 is no limit.
        connections_limit: Gauge = "echocast_connections_limit";
        /// Connections rejected before they were clients, by reason.
        handshakes_refused: Counters = "echocast_handshakes_refused_total", &["reason"];
        /// Channels with a client on this node, or recently with one.
        channels: Gauge = "echocast_channels";
        /// Messages received from the broker.
        messages_relayed: Counter = "echocast_messages_relayed_total";
        /// Messages known to be lost, by cause.
        messages_lost: Counters = "echocast_messages_lost_total", &["cause"];
        /// Messages that this node had missed and read from the history.
        messages_recovered: Counter = "echocast_messages_recovered_total";
        /// Clients that resumed, by result: recovered, or gap if some messages were gone.
        resumes: Counters = "echocast_resumes_total", &["result"];
        /// Readers that lagged out of their channel's feed, by policy: disconnected or skipped ahead.
        slow_clients: Counters = "echocast_slow_clients_total", &["policy"];
        /// Messages published on this node and not yet acknowledged by the broker.
        inbox_depth: Gauge = "echocast_inbox_depth";
        /// Messages in a batch given to the broker.
        batch_messages: Histogram = "echocast_batch_messages", doubling(1.0, 13);
        /// Seconds from taking a batch out of the inbox until the broker acknowledges it.
        publish_seconds: Histogram = "echocast_publish_seconds", latencies();
        /// Seconds from a batch's publish time until this node's feed has it.
        relay_seconds: Histogram = "echocast_relay_seconds", latencies();
        /// Seconds from a batch's publish time until its bytes are handed to the kernel; one
        /// delivery in 16 is measured, replays are not.
        delivery_seconds: Histogram = "echocast_delivery_seconds", latencies();
        /// 1 while the broker is reachable.
        broker_up: Gauge = "echocast_broker_up";
        /// Seconds for a probe to go through the broker and come back.
        broker_roundtrip: Histogram = "echocast_broker_roundtrip_seconds", latencies();
        /// Times the broker's connection was lost and made again.
        broker_reconnects: Counter = "echocast_broker_reconnects_total";
        /// Bytes held in feeds.
        feed_bytes: Gauge = "echocast_feed_bytes";
        /// Bytes that messages take in this node, by part.
        memory: Gauges = "echocast_memory_bytes", &["part"];
        /// Bytes that messages may take in this node (--memory).
        memory_limit: Gauge = "echocast_memory_limit";
        /// Bytes dropped because the memory budget was short: of idle channels, or of the largest
        /// feeds.
        memory_shed: Counters = "echocast_memory_shed_bytes_total", &["what"];
        /// 1 from the stop signal on.
        draining: Gauge = "echocast_draining";
        /// Always 1; the labels are the running build.
        build_info: Gauges = "echocast_build_info", &["version", "commit"];
    }
    /// Metrics of WebSockets.
    websocket: TransportMetrics;
    /// Metrics of event streams.
    events: TransportMetrics;
    /// Metrics of single requests.
    http: TransportMetrics;
    /// All of these, to be exported.
    registry: Registry;
}

/// The metrics of one transport.
#[derive(Debug)]
pub(crate) struct TransportMetrics {
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

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// WebSockets.
    WebSocket,
    /// Event streams.
    Events,
    /// HTTP requests, until they become one of the others.
    Http,
}

impl TransportMetrics {
    /// Counts a client that has gone.
    pub(crate) fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[self.label, reason]).inc();
    }
}

/// Messages that were dropped to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// Of channels without clients.
    Idle,
    /// Of the largest feeds.
    Feeds,
}

/// Why a message is known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossCause {
    /// A slow reader was skipped ahead (`--slow-client skip`).
    SlowClient,
    /// A publisher's numbers jumped: Redis delivered nothing in between.
    Broker,
    /// A payload with the magic that could not be read; counted as one message.
    Malformed,
    /// Batches of another history than the one that Redis holds: of another deployment, replayed,
    /// or forged.
    Foreign,
    /// The node ended before the broker took it.
    Shutdown,
    /// Redis rejected it, and no publisher waited for the answer.
    Refused,
}

impl LossCause {
    const ALL: [Self; 6] = [
        Self::SlowClient,
        Self::Broker,
        Self::Malformed,
        Self::Foreign,
        Self::Shutdown,
        Self::Refused,
    ];

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
    /// All metrics at zero, registered. `closed_reasons` (of WebSockets), `refused_reasons` and
    /// `slow_policies` are the values that their labels can have, so that every series exists from
    /// the start.
    pub(crate) fn new(
        closed_reasons: &[&str],
        refused_reasons: &[&str],
        slow_policies: &[&str],
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let by_transport = ByTransport::register(&registry)?;
        let [websocket, events, http] = TRANSPORTS.map(|label| by_transport.of(label));
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let metrics = Self::register(&registry.clone(), websocket, events, http, registry)?;
        metrics
            .build_info
            .with_label_values(&[crate::VERSION, crate::COMMIT])
            .set(1);
        for reason in closed_reasons {
            by_transport
                .closed
                .with_label_values(&[metrics.websocket.label, reason]);
        }
        metrics.create_series(refused_reasons, slow_policies);
        Ok(metrics)
    }

    /// Creates every series, at zero: Prometheus sees the first increase only of a series that
    /// existed before.
    fn create_series(&self, refused_reasons: &[&str], slow_policies: &[&str]) {
        for reason in refused_reasons {
            self.handshakes_refused.with_label_values(&[reason]);
        }
        for policy in slow_policies {
            self.slow_clients.with_label_values(&[policy]);
        }
        for recovered in [true, false] {
            self.resumed(recovered, 0);
        }
        for what in [Shed::Idle, Shed::Feeds] {
            self.shed(what, 0);
        }
        for cause in LossCause::ALL {
            self.lost(cause, 0);
        }
    }

    /// The metrics of one transport.
    pub(crate) fn of(&self, transport: Transport) -> &TransportMetrics {
        match transport {
            Transport::WebSocket => &self.websocket,
            Transport::Events => &self.events,
            Transport::Http => &self.http,
        }
    }

    /// Counts clients that resumed.
    pub(crate) fn resumed(&self, recovered: bool, clients: u64) {
        self.resumes
            .with_label_values(&[if recovered { "recovered" } else { "gap" }])
            .inc_by(clients);
    }

    /// Counts messages known to be lost.
    pub(crate) fn lost(&self, cause: LossCause, messages: u64) {
        self.messages_lost
            .with_label_values(&[cause.label()])
            .inc_by(messages);
    }

    /// Counts bytes that were dropped to make room.
    pub(crate) fn shed(&self, what: Shed, bytes: usize) {
        let label = match what {
            Shed::Idle => "idle",
            Shed::Feeds => "feeds",
        };
        self.memory_shed
            .with_label_values(&[label])
            .inc_by(bytes as u64);
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl ByTransport {
    fn of(&self, label: &'static str) -> TransportMetrics {
        TransportMetrics {
            connections: self.connections.with_label_values(&[label]),
            opened: self.opened.with_label_values(&[label]),
            received: self.received.with_label_values(&[label]),
            received_bytes: self.received_bytes.with_label_values(&[label]),
            delivered: self.delivered.with_label_values(&[label]),
            sent_bytes: self.sent_bytes.with_label_values(&[label]),
            label,
            closed: self.closed.clone(),
        }
    }
}
