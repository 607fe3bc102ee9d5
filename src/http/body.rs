//! Bodies of requests, and the rests of those that are answered before their body has been read: a
//! little is read on, so that the connection can be kept; after more of it the connection ends,
//! with a [farewell](super::farewell).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::exchange::Exchange;

/// So much of a rest is read for the connection's sake, in bytes: about what a client has sent
/// before it could know better.
const REST_BYTES: u64 = 64 * 1024;

/// How long the answer waits for that.
const REST_PATIENCE: Duration = Duration::from_secs(1);

/// A request as its connection received it, whose body leaves its rest to the connection.
pub(super) fn received(request: Request<Incoming>, exchange: &Arc<Exchange>) -> Request {
    exchange.end_head();
    if request.body().is_end_stream() {
        return request.map(|_| axum::body::Body::empty());
    }
    let expects = request.headers().get(header::EXPECT);
    let awaited =
        expects.is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    request.map(|incoming| {
        axum::body::Body::new(RequestBody {
            incoming: Some(incoming),
            awaited,
            exchange: exchange.clone(),
        })
    })
}

/// A request's body. Dropped before it has been read, it leaves its rest to the connection.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` once nothing more comes of it.
    incoming: Option<Incoming>,
    /// The client need not send it before it is asked to, which the first poll does.
    awaited: bool,
    exchange: Arc<Exchange>,
}

/// The rest of a body that nobody has read.
#[derive(Debug)]
pub(super) struct Rest {
    incoming: Incoming,
    /// Nobody has asked the client for it, so that it may never come.
    awaited: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.awaited = false;
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.incoming = None;
        }
        if matches!(frame, Some(Err(_))) {
            // Nobody can say where the next request begins.
            self.exchange.leave_unread();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(incoming) = self
            .incoming
            .take()
            .filter(|incoming| !incoming.is_end_stream())
        {
            self.exchange.leave(Rest {
                incoming,
                awaited: self.awaited,
            });
        }
    }
}

impl Rest {
    /// Reads it, if it is short and soon here.
    async fn read_out(self) -> bool {
        !self.awaited
            && self.incoming.size_hint().lower() <= REST_BYTES
            && timeout(REST_PATIENCE, read(self.incoming))
                .await
                .unwrap_or(false)
    }
}

/// Reads all of it, if it is short.
async fn read(mut rest: Incoming) -> bool {
    let mut bytes = 0;
    while let Some(frame) = rest.frame().await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        if bytes > REST_BYTES {
            return false;
        }
    }
    true
}

/// Makes the connection ready for another request after this answer, or says in the answer that
/// there will be none.
pub(super) async fn settle(exchange: &Exchange, response: &mut Response) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if let Some(rest) = exchange.take_rest()
        && !rest.read_out().await
    {
        exchange.leave_unread();
    }
    if exchange.is_left_unread() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

#[cfg(test)]
mod tests;
