//! Logs and traces: the process's subscriber, and the spans whose context travels between nodes. Off unless asked for,
//! a span costs one comparison.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;
use crate::message::Kind;

/// The target of spans that are exported and never logged.
const TRACES: &str = "otel";

/// The name under which spans are exported, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "echocast";

/// Flushes traces when told to.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets the process's subscriber: logs to standard error, levels by `RUST_LOG` (default `info`), and spans to
/// `OTEL_EXPORTER_OTLP_ENDPOINT` over gRPC if that is set.
///
/// # Errors
/// If there is a subscriber already, or the exporter's settings make no sense.
pub fn init(format: LogFormat) -> anyhow::Result<Telemetry> {
    let terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env()?;
    let filter = filter.add_directive(format!("{TRACES}=off").parse()?);
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match format {
        LogFormat::Text | LogFormat::Auto if terminal || format == LogFormat::Text => {
            logs.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).with_target(false).boxed()
        }
        _ => logs.json().flatten_event(true).boxed(),
    };
    let traces = exporter()?;
    let spans = traces.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE));
        layer.with_filter(Targets::new().with_target(TRACES, tracing::Level::INFO))
    });
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(spans).try_init()?;
    Ok(Telemetry { traces })
}

fn exporter() -> anyhow::Result<Option<SdkTracerProvider>> {
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none_or(|endpoint| endpoint.is_empty()) {
        return Ok(None);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build();
    let exporter = exporter.context("OTEL_EXPORTER_OTLP_ENDPOINT: cannot export traces there")?;
    let resource = opentelemetry_sdk::Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name(SERVICE),
    };
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build()))
}

impl Telemetry {
    /// Sends what is left. The exporter blocks, so this waits on a thread of its own.
    pub async fn flush(self) {
        let Some(traces) = self.traces else { return };
        match tokio::task::spawn_blocking(move || traces.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the last traces were not sent: {error}"),
            Err(error) => tracing::warn!("the last traces were not sent: {error}"),
        }
    }
}

/// Logs what a client said, as the lecture's server did.
pub fn log_message(channel: &str, kind: Kind, payload: &[u8]) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    match (kind, str::from_utf8(payload)) {
        (Kind::Text, Ok(text)) => tracing::info!(channel, "received: {text}"),
        _ => tracing::info!(channel, bytes = payload.len(), "received a binary message"),
    }
}

/// The span of one handing over to the broker: `system` names it as OpenTelemetry does.
pub fn publish_span(system: &str) -> Span {
    tracing::info_span!(target: TRACES, "publish", otel.kind = "producer", messaging.system = system)
}

/// The span of a batch's way into this node's feed: a child of its publish on whichever node that was, or of the current
/// span if `traceparent` is empty.
pub fn relay_span(system: &str, channel: &str, messages: usize, traceparent: &str) -> Span {
    let span = tracing::info_span!(
        target: TRACES, "relay", otel.kind = "consumer", messaging.system = system,
        messaging.destination.name = channel, messaging.batch.message_count = messages
    );
    if !span.is_disabled() && !traceparent.is_empty() {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        if let Err(error) = span.set_parent(TraceContextPropagator::new().extract(&carrier)) {
            tracing::debug!("a relay's span has no parent: {error}");
        }
    }
    span
}

/// The W3C trace context of a span, empty if it is not recorded.
pub fn traceparent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}
