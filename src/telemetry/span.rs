//! The spans of a message on its way, and the W3C context that carries a trace from a client to the
//! publish and from there, in the envelope, to every node. Names and attributes follow
//! OpenTelemetry's conventions for messaging.
//!
//! ```text
//!   a client's span ──▶ publish (producer) ──┬──▶ relay (consumer) ──▶ deliver     on each node
//!   (`traceparent` of a POST)                └──▶ relay (consumer) ──▶ deliver     with clients of the channel
//! ```
//!
//! `publish` lasts from the inbox until the broker holds a batch. `relay` is its way into a node's
//! feed, and within it `deliver` appends the batch to the feed and wakes its readers. The time of
//! their sockets is in `echocast_delivery_seconds`: a span for each client would cost more than the
//! delivery.
//!
//! Whether a trace is sampled is decided where it begins. A batch that is not sampled carries no
//! context, and without a context other nodes make no spans.
//!
//! Switched off, all spans together cost a batch 128 instructions (callgrind on a release build,
//! 200,000 batches less 100,000).
//!
//! Metrics carry no exemplars, which would lead from a slow bucket to its trace: the `prometheus`
//! crate has none.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::TRACES;

/// The name of the W3C header, and of the propagator's field.
const TRACEPARENT: &str = "traceparent";

/// The span of publishing a batch. `system` is OpenTelemetry's name of the broker. The span
/// continues the trace of the message's publisher, if that is known. Its name does not contain the
/// channel's, because clients choose those.
pub(crate) fn publish_span(
    system: &str,
    channel: &str,
    messages: usize,
    traceparent: Option<&str>,
) -> Span {
    let span = tracing::info_span!(
        target: TRACES, parent: None, "publish", otel.kind = "producer", messaging.system = system,
        messaging.operation.name = "publish", messaging.operation.type = "send",
        messaging.destination.name = channel, messaging.batch.message_count = messages
    );
    if let Some(traceparent) = traceparent {
        set_parent(&span, traceparent);
    }
    span
}

/// Marks a publish span as failed for good.
pub(crate) fn failed(span: &Span, why: &str) {
    if !span.is_disabled() {
        span.set_attribute("error.type", "refused");
        span.set_status(Status::error(why.to_owned()));
    }
}

/// The span of a batch's way into this node's feed, a child of its publish on any node. Without a
/// context there is none: the publishing node decides whether a batch is traced. A batch that waits
/// for an earlier one has a span for each try.
pub(crate) fn relay_span(system: &str, channel: &str, messages: usize, traceparent: &str) -> Span {
    if traceparent.is_empty() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TRACES, parent: None, "relay", otel.kind = "consumer", messaging.system = system,
        messaging.operation.name = "relay", messaging.operation.type = "process",
        messaging.destination.name = channel, messaging.batch.message_count = messages
    );
    set_parent(&span, traceparent);
    span
}

/// Calls `append`, which gives a batch to a feed, in a child span of its relay. `followers` counts
/// the channel's clients on this node.
pub(crate) fn deliver<T>(
    relay: &Span,
    followers: impl FnOnce() -> usize,
    append: impl FnOnce() -> T,
) -> T {
    if relay.is_disabled() {
        return append();
    }
    let span = tracing::info_span!(
        target: TRACES, parent: relay, "deliver", messaging.operation.name = "deliver", echocast.followers = followers()
    );
    span.in_scope(append)
}

/// The trace that a client wants to continue, if traces are on and the header names one.
pub(crate) fn continued(traceparent: Option<&str>) -> Option<String> {
    let traceparent = traceparent.filter(|_| tracing::enabled!(target: TRACES, Level::INFO))?;
    context(traceparent)
        .has_active_span()
        .then(|| traceparent.to_owned())
}

/// The W3C trace context of a span, empty if it is not sampled.
pub(crate) fn traceparent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

fn set_parent(span: &Span, traceparent: &str) {
    if !span.is_disabled()
        && let Err(error) = span.set_parent(context(traceparent))
    {
        tracing::debug!("a span has no parent: {error}");
    }
}

fn context(traceparent: &str) -> Context {
    TraceContextPropagator::new().extract(&HashMap::from([(
        TRACEPARENT.to_owned(),
        traceparent.to_owned(),
    )]))
}
