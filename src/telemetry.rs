//! Logs and traces: the process's subscriber, and where it sends both. `span` has the spans, and the
//! way of a trace from node to node. Records hold names, texts and errors of strangers: `text` and
//! `lines` make sure that none of these controls a terminal or looks like another record.

mod lines;
pub mod printable;
mod span;
mod text;

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use self::lines::JsonLines;
pub(crate) use self::span::{continued, deliver, failed, publish_span, relay_span, traceparent};
use self::text::TextFields;
use crate::message::Kind;

/// The target of spans that are exported and never logged.
const TRACES: &str = "otel";

/// The name under which spans are exported, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "echocast";

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The process's traces, to be flushed at its end.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets the process's subscriber: logs to standard error, levels by `RUST_LOG` (default `info`),
/// and spans to `OTEL_EXPORTER_OTLP_ENDPOINT` over gRPC if that is set. The other standard `OTEL_*`
/// variables are read by the SDK: `OTEL_TRACES_SAMPLER` and `_ARG`, `OTEL_SERVICE_NAME`,
/// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_*`.
///
/// # Errors
/// If there is a subscriber already, or the exporter's settings cannot be used.
pub fn init(format: LogFormat) -> anyhow::Result<Telemetry> {
    let levels = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env()?;
    // Spans of messages are exported, and would flood the log.
    let levels = levels.add_directive(format!("{TRACES}=off").parse()?);
    let logs = log_layer(format).with_filter(levels);
    let registry = tracing_subscriber::registry().with(logs);
    let traces = exporter()?;
    match &traces {
        Some(provider) => registry.with(span_layer(provider)).try_init()?,
        // Not a layer that is `None`: then filters would be asked about every span that nobody
        // wants, at 1,100 instructions each.
        None => registry.try_init()?,
    }
    Ok(Telemetry { traces })
}

/// Writes records to standard error.
fn log_layer(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let is_terminal = std::io::stderr().is_terminal();
    let is_text = match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => is_terminal,
    };
    let logs = tracing_subscriber::fmt::layer();
    if is_text {
        let has_colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
        logs.with_writer(std::io::stderr)
            .fmt_fields(TextFields)
            .with_target(false)
            .with_ansi(has_colours)
            .boxed()
    } else {
        logs.with_writer(JsonLines::new)
            .json()
            .flatten_event(true)
            .boxed()
    }
}

/// Exports the spans of messages. Where in our code a span is made, and on which thread, is the same
/// for all of them, so it is left out.
fn span_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(SERVICE));
    spans.with_filter(Targets::new().with_target(TRACES, tracing::Level::INFO))
}

/// The exporter of spans, if there is an address to send them to.
fn exporter() -> anyhow::Result<Option<SdkTracerProvider>> {
    let endpoint = std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT");
    if endpoint.is_none_or(|endpoint| endpoint.is_empty()) {
        return Ok(None);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT: cannot export traces there")?;
    let resource = opentelemetry_sdk::Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        // The SDK has read it.
        Some(_) => resource,
        None => resource.with_service_name(SERVICE),
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    Ok(Some(provider))
}

impl Telemetry {
    /// Sends the traces that are left. The exporter blocks, so this waits on a thread of its own.
    pub async fn flush(self) {
        let Some(traces) = self.traces else { return };
        match tokio::task::spawn_blocking(move || traces.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the last traces were not sent: {error}"),
            Err(error) => tracing::warn!("the last traces were not sent: {error}"),
        }
    }
}

/// Logs a message of a client.
pub(crate) fn log_message(channel: &str, kind: Kind, payload: &[u8]) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    match (kind, str::from_utf8(payload)) {
        (Kind::Text, Ok(text)) => tracing::info!(channel, "received: {text}"),
        _ => tracing::info!(channel, bytes = payload.len(), "received a binary message"),
    }
}
