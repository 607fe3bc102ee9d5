//! Server-sent events: a channel as a response that does not end. It reads the same feed as every session.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::public::Public;
use super::query;
use crate::channel::ChannelName;
use crate::config::SlowClient;
use crate::feed::{Cursor, Lagged, Start, Taken};
use crate::hub::{Membership, Subscription};
use crate::message::{Format, put_gap};
use crate::metrics::{LossCause, Way};
use crate::ws::close::CloseReason;
use crate::ws::gate::Permit;
use crate::ws::handshake::Refusal;
use crate::ws::pulse::Seat;
use crate::ws::session::Shared;

/// Time between comments, which keep proxies from ending a silent stream.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

pub(super) async fn events(
    public: &Public,
    name: &ChannelName,
    ip: IpAddr,
    request: Request,
) -> Result<Response, Refusal> {
    public.door.admit(request.headers())?;
    let shared = public.door.shared.clone();
    let permit = public.door.gate.enter(ip, Way::Events)?;
    let start = query::start(request.uri().query().unwrap_or_default(), request.headers());
    let subscription = shared.hub.join(name).subscribe(start).await?;
    tracing::debug!(channel = name.as_str(), %ip, "event stream");
    shared.metrics.events.opened.inc();
    let mut opening = String::from(":ok\n\n");
    if let Some(id) = subscription.newest.filter(|_| start == Start::Newest) {
        // Nothing to dispatch, but whoever hears nothing until it comes back goes on from here.
        opening += &format!("id: {id}\n\n");
    }
    shared.metrics.events.sent_bytes.inc_by(opening.len() as u64);
    let events = Events::new(shared, subscription, permit);
    let rest = stream::unfold(events, async |mut events| Some((events.next().await?, events)));
    let pieces = stream::once(async { vec![Bytes::from(opening)] }).chain(rest);
    let body = Body::from_stream(pieces.flat_map(stream::iter).map(Ok::<Bytes, Infallible>));

    let mut response = head();
    *response.body_mut() = body;
    Ok(response)
}

/// The answer without its events.
pub(super) fn head() -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // What nginx asks for, or it would collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One client's stream.
struct Events {
    shared: Arc<Shared>,
    place: Place,
    seat: Option<Seat>,
    comments: Interval,
    /// Why it ends, should it end now.
    reason: CloseReason,
    _permit: Permit,
}

enum Place {
    Older(Subscription),
    Live(Membership, Cursor),
    End,
}

/// What a stream waits for.
enum Next {
    Messages(Taken),
    Lagged,
    Comment,
    SentAway,
    CutOff,
}

impl Events {
    fn new(shared: Arc<Shared>, subscription: Subscription, permit: Permit) -> Self {
        let mut comments = interval_at(Instant::now() + COMMENT_INTERVAL, COMMENT_INTERVAL);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (place, reason) = (Place::Older(subscription), CloseReason::Disconnected);
        Self { shared, place, seat: None, comments, reason, _permit: permit }
    }

    /// The next pieces; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        let pieces = match std::mem::replace(&mut self.place, Place::End) {
            Place::End => return None,
            Place::Older(mut subscription) => match subscription.older().await {
                Ok(Some(older)) => {
                    self.place = Place::Older(subscription);
                    let (pieces, messages) = older.pieces(Format::EVENTS);
                    self.shared.metrics.events.delivered.inc_by(messages as u64);
                    pieces
                }
                Ok(None) => {
                    let (membership, cursor) = subscription.into_live();
                    self.place = Place::Live(membership, cursor);
                    Vec::new()
                }
                // It comes back for the rest.
                Err(_) => return None,
            },
            Place::Live(membership, mut cursor) => {
                let pieces = self.live(&mut cursor).await?;
                if self.reason == CloseReason::Disconnected {
                    self.place = Place::Live(membership, cursor);
                }
                pieces
            }
        };
        self.shared.metrics.events.sent_bytes.inc_by(pieces.iter().map(|piece| piece.len() as u64).sum());
        Some(pieces)
    }

    /// The next pieces of the live feed; `None` to end at once. If there is a reason to end now, they are the last.
    async fn live(&mut self, cursor: &mut Cursor) -> Option<Vec<Bytes>> {
        let next = poll_fn(|context| self.poll_next(cursor, context)).await;
        let pieces = match next {
            Next::Messages(taken) => {
                let batches = taken.iter().enumerate();
                let pieces = batches.map(|(index, batch)| {
                    let from = if index == 0 { cursor.sent(batch, Format::EVENTS) } else { 0 };
                    batch.bytes(Format::EVENTS).slice(from..)
                });
                let pieces = pieces.collect();
                let messages: usize = taken.iter().map(|batch| batch.len()).sum();
                self.shared.metrics.events.delivered.inc_by((messages - cursor.messages_behind()) as u64);
                cursor.account(&taken);
                cursor.skip(&taken);
                pieces
            }
            Next::Lagged => {
                let policy = self.shared.slow_client;
                self.shared.metrics.slow_clients.with_label_values(&[policy.label()]).inc();
                if policy == SlowClient::Disconnect {
                    self.reason = CloseReason::Slow;
                    return None;
                }
                let missed = cursor.skip_to_newest();
                self.shared.metrics.lost(LossCause::SlowClient, missed.unwrap_or(0));
                let mut mark = Vec::new();
                put_gap(Format::EVENTS, missed, &mut mark);
                vec![mark.into()]
            }
            Next::Comment => vec![Bytes::from_static(b":\n\n")],
            Next::SentAway => {
                self.reason = CloseReason::Drain;
                vec![format!("retry: {}\n\n", self.shared.retry_ms()).into()]
            }
            Next::CutOff => {
                self.reason = CloseReason::Drain;
                return None;
            }
        };
        Some(pieces)
    }

    fn poll_next(&mut self, cursor: &mut Cursor, context: &mut Context<'_>) -> Poll<Next> {
        let seat = self.seat.get_or_insert_with(|| self.shared.pulse.join(context.waker()));
        if seat.is_cut_off() {
            return Poll::Ready(Next::CutOff);
        }
        let mut taken = Taken::new();
        match cursor.poll_take(context, &mut taken) {
            Poll::Ready(Ok(())) => Poll::Ready(Next::Messages(taken)),
            Poll::Ready(Err(Lagged)) => Poll::Ready(Next::Lagged),
            // What is there is sent before the end.
            Poll::Pending if seat.is_sent_away() => Poll::Ready(Next::SentAway),
            Poll::Pending => self.comments.poll_tick(context).map(|_| Next::Comment),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.metrics.events.closed(self.reason.label());
    }
}
