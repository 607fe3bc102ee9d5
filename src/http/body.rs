//! Bodies of requests. A body that is dropped before it was read leaves its rest to the connection:
//! a little is read on, so that the connection can be kept. After more of it the connection ends,
//! with a [linger](super::linger).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::Exchange;
use super::unread::UnreadBody;

/// A request as its connection received it, whose body leaves its rest to the connection.
pub(super) fn received(request: Request<Incoming>, exchange: &Arc<Exchange>) -> Request {
    exchange.end_head();
    if request.body().is_end_stream() {
        return request.map(|_| axum::body::Body::empty());
    }
    let awaits_request = request
        .headers()
        .get(header::EXPECT)
        .is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    request.map(|incoming| {
        axum::body::Body::new(RequestBody {
            incoming: Some(incoming),
            awaits_request,
            exchange: exchange.clone(),
        })
    })
}

/// A request's body.
#[derive(Debug)]
struct RequestBody {
    /// `None` once it has ended or failed.
    incoming: Option<Incoming>,
    /// The client waits to be asked for the body (`Expect: 100-continue`). The first poll asks.
    awaits_request: bool,
    exchange: Arc<Exchange>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.awaits_request = false;
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.incoming = None;
        }
        if matches!(frame, Some(Err(_))) {
            // Nobody can know where the next request begins.
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
        let Some(incoming) = self.incoming.take() else {
            return;
        };
        if !incoming.is_end_stream() {
            let rest = UnreadBody::new(incoming, self.awaits_request);
            self.exchange.leave_body(rest);
        }
    }
}

/// Makes the connection ready for another request after this answer, or announces in the answer
/// that there will be none.
pub(super) async fn settle(exchange: &Exchange, response: &mut Response) {
    // An upgraded connection has no next request.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if let Some(rest) = exchange.take_unread_body()
        && !rest.read_out().await
    {
        exchange.leave_unread();
    }
    if exchange.is_left_unread() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
}

#[cfg(test)]
mod tests;
