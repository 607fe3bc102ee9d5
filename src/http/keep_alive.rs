//! How long a connection may wait for its next request, how clients learn of that, and the clock
//! that the HTTP server measures it with. hyper has one time limit from the end of an answer to the
//! end of the next head. Here are two, because a kept connection may be idle for longer than a head
//! may take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, Version, header};
use axum::response::Response;
use hyper::rt::{Sleep, Timer};

use super::exchange::Exchange;
use crate::client::header_list;

/// The node waits this much longer than it announces, because a request that was sent in time may
/// still be on its way.
const GRACE: Duration = Duration::from_secs(1);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How long connections of a port are kept between requests.
#[derive(Clone, Debug)]
pub(crate) struct KeepAlive {
    idle: Duration,
    /// The value of `Keep-Alive`.
    header: HeaderValue,
}

/// Time limits of a connection that waits for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the first byte of a head to its end; of the first head from the accept.
    pub(super) head: Duration,
    /// From an answer to the first byte of the next head.
    pub(super) idle: Duration,
}

impl KeepAlive {
    /// For this `--idle-timeout`.
    pub(crate) fn new(idle: Duration) -> Self {
        let header = HeaderValue::try_from(format!("timeout={}", idle.as_secs()))
            .expect("digits are a header's value");
        Self { idle, header }
    }

    /// How long a connection may be idle.
    pub(super) fn idle(&self) -> Duration {
        self.idle.saturating_add(GRACE)
    }

    /// Announces in an answer that its connection is kept, and for how long.
    pub(super) fn announce(&self, response: &mut Response) {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        if !upgraded && !headers.contains_key(header::CONNECTION) {
            // `Connection` names every header for this connection alone, so that proxies do not
            // forward it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.insert(KEEP_ALIVE, self.header.clone());
        }
    }
}

/// Whether the client wants its connection to be kept after the answer.
pub(super) fn is_wanted<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    // HTTP/1.0 closes unless the client asks to keep, and later versions keep unless it asks to close.
    let kept = request.version() != Version::HTTP_10
        || header_list::contains(headers, header::CONNECTION, "keep-alive");
    kept && !header_list::contains(headers, header::CONNECTION, "close")
}

/// The HTTP server's clock. The server asks for an alarm whenever it begins to wait for a head,
/// polls it only while it waits, and drops it once the head is complete.
#[derive(Debug)]
pub(super) struct HeadTimer {
    exchange: Arc<Exchange>,
    patience: Patience,
    /// The next wait is the connection's first. A client that connects has the time of a head, not
    /// that of an idle connection.
    first: AtomicBool,
}

impl HeadTimer {
    pub(super) fn new(exchange: Arc<Exchange>, patience: Patience) -> Self {
        Self {
            exchange,
            patience,
            first: AtomicBool::new(true),
        }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _duration: Duration) -> Pin<Box<dyn Sleep>> {
        let begun = self.exchange.begin_head() | self.first.swap(false, Relaxed);
        let Patience { head, idle } = self.patience;
        let sleep = tokio::time::sleep(if begun { head } else { idle });
        Box::pin(HeadWait {
            exchange: self.exchange.clone(),
            head,
            begun,
            sleep: Box::pin(sleep),
        })
    }

    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.patience.head)
    }
}

/// A wait for a head.
struct HeadWait {
    exchange: Arc<Exchange>,
    /// How long the head may take once it has begun.
    head: Duration,
    /// It has begun, and the alarm is set for it.
    begun: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Future for HeadWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.exchange.head_has_begun() {
            self.begun = true;
            let end = tokio::time::Instant::now() + self.head;
            self.sleep.as_mut().reset(end);
        }
        self.sleep.as_mut().poll(context)
    }
}

impl Sleep for HeadWait {}

#[cfg(test)]
mod tests;
