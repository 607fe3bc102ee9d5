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

/// What the ops routes tell about.
#[derive(Clone, Debug)]
pub struct Ops {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How the broker is.
    pub status: Arc<Status>,
    /// Whether the node is going.
    pub shutdown: Shutdown,
}

/// `/metrics`, `/livez`, `/readyz` and nothing else.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "here are /metrics, /livez and /readyz\n",
            )
        })
        .with_state(ops)
}

async fn metrics(State(ops): State<Ops>) -> Response {
    match ops.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no metrics: {error}\n"),
        )
            .into_response(),
    }
}

/// Ready once the broker has come up, until the node drains. An outage of the broker later is told
/// and does not count: all nodes share it, so a balancer would lose them all.
async fn ready(State(ops): State<Ops>) -> (StatusCode, String) {
    let Ops {
        status, shutdown, ..
    } = ops;
    let up = status.is_up();
    let ever = up || status.has_been_up();
    let (code, state) = match (shutdown.has_begun(), ever) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, true) => (StatusCode::OK, "ready"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    let broker = match (up, ever, status.why()) {
        (true, ..) => "up".to_owned(),
        (false, true, None) => "away".to_owned(),
        (false, true, Some(why)) => format!("away, {why}"),
        (false, false, None) => "not reached yet".to_owned(),
        (false, false, Some(why)) => format!("not usable, {why}"),
    };
    (code, format!("{state}, broker {broker}\n"))
}
