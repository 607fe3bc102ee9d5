//! The body of a message while it arrives, within the limits of its size, its rate and its time.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use bytes::BytesMut;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use crate::budget::Charge;
use crate::client::rate::{LEAST_RATE, PublishRates};
use crate::client::rejection::Rejection;

/// How long a body may take to arrive, beside the time that [`LEAST_RATE`] allows for its size.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than `--byte-rate`.
const TOO_MANY_BYTES: Rejection = Rejection::Rate("too many bytes a second on one connection");

/// A body that may come, as far as its head tells.
pub(super) struct AnnouncedBody<'a> {
    body: Limited<Body>,
    /// Bytes it has at most.
    limit: usize,
    rates: &'a PublishRates,
    /// Its bytes are counted in `rates` already, because the head tells how many there are.
    is_counted: bool,
}

impl<'a> AnnouncedBody<'a> {
    /// Rejects a body that is too long by its head.
    pub(super) fn new(
        body: Body,
        limit: usize,
        rates: &'a PublishRates,
    ) -> Result<Self, Rejection> {
        let length = body.size_hint();
        if length.lower() > limit as u64 {
            return Err(Rejection::TooLarge(limit));
        }
        if !rates.allows_bytes(length.lower() as usize) {
            return Err(TOO_MANY_BYTES);
        }
        Ok(Self {
            body: Limited::new(body, limit),
            limit,
            rates,
            is_counted: length.exact().is_some(),
        })
    }

    /// Reads it to its end. `charge` counts its bytes in the memory budget.
    pub(super) async fn read(mut self, charge: &mut Charge) -> Result<Bytes, Rejection> {
        let start = Instant::now();
        let mut whole = BytesMut::new();
        loop {
            // A client sends at least the least rate on average.
            let earned = Duration::from_secs_f64(whole.len() as f64 / LEAST_RATE as f64);
            let frame = timeout_at(start + PATIENCE + earned, self.body.frame()).await;
            let frame =
                frame.map_err(|_| Rejection::Unreadable("the body did not arrive in time"))?;
            let Some(frame) = frame else {
                return Ok(whole.freeze());
            };
            let frame = frame.map_err(|error| self.rejection(error.as_ref()))?;
            // Trailers have no meaning here.
            let bytes = frame.into_data().unwrap_or_default();
            if !self.is_counted && !self.rates.allows_bytes(bytes.len()) {
                return Err(TOO_MANY_BYTES);
            }
            whole.extend_from_slice(&bytes);
            charge.set(whole.capacity());
            if !charge.has_room() {
                return Err(Rejection::Memory);
            }
        }
    }

    fn rejection(&self, error: &(dyn std::error::Error + 'static)) -> Rejection {
        if error.is::<LengthLimitError>() {
            Rejection::TooLarge(self.limit)
        } else {
            Rejection::Unreadable("the body did not arrive whole")
        }
    }
}
