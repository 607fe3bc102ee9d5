//! The rest of a request's body that nobody has read. A little of it is read, so that the
//! connection can be kept for the next request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

/// Bytes that are read at most: about as many as a client has sent before it can receive the
/// answer.
const MOST_BYTES: u64 = 64 * 1024;

/// How long the answer waits for them.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rest of a body.
#[derive(Debug)]
pub(super) struct UnreadBody {
    incoming: Incoming,
    /// The client waits to be asked for the body, so that it may never come.
    awaits_request: bool,
}

impl UnreadBody {
    pub(super) fn new(incoming: Incoming, awaits_request: bool) -> Self {
        Self {
            incoming,
            awaits_request,
        }
    }

    /// Reads it to its end, if it is short and arrives soon. Returns whether it did.
    pub(super) async fn read_out(self) -> bool {
        if self.awaits_request || self.incoming.size_hint().lower() > MOST_BYTES {
            return false;
        }
        let read = timeout(PATIENCE, read_to_end(self.incoming));
        read.await.unwrap_or(false)
    }
}

/// Reads a body up to [`MOST_BYTES`]. Returns whether that was all of it.
async fn read_to_end(mut body: Incoming) -> bool {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        if bytes > MOST_BYTES {
            return false;
        }
    }
    true
}
