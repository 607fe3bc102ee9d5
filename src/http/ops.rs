//! The ops port: metrics and probes, for operators only.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::broker::Status;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// The parts of the node that the ops routes report.
#[derive(Clone, Debug)]
pub(crate) struct Ops {
    /// All metrics of the node.
    pub metrics: Arc<Metrics>,
    /// The state of the broker.
    pub status: Arc<Status>,
    /// Whether the node drains.
    pub shutdown: Shutdown,
}

/// `/metrics`, `/livez`, `/readyz` and nothing else.
pub(crate) fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .fallback(not_found)
        .with_state(ops)
}

async fn not_found() -> (StatusCode, &'static str) {
    let text = "here are /metrics, /livez and /readyz\n";
    (StatusCode::NOT_FOUND, text)
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    match ops.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            let text = format!("no metrics: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Ready once the broker has come up, until the node drains. A later outage of the broker is in the
/// body, but the node stays ready: all nodes share the broker, so a balancer would lose them all.
async fn ready(State(ops): State<Ops>) -> (StatusCode, String) {
    let has_been_up = ops.status.is_up() || ops.status.has_been_up();
    let (code, state) = if ops.shutdown.has_begun() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if has_been_up {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    let broker = broker(&ops.status, has_been_up);
    (code, format!("{state}, broker {broker}\n"))
}

/// The state of the broker in words.
fn broker(status: &Status, has_been_up: bool) -> String {
    if status.is_up() {
        return "up".to_owned();
    }
    match (has_been_up, status.why()) {
        (true, None) => "away".to_owned(),
        (true, Some(why)) => format!("away, {why}"),
        (false, None) => "not reached yet".to_owned(),
        (false, Some(why)) => format!("not usable, {why}"),
    }
}
