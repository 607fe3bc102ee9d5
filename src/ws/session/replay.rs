//! The replay: what is older than the live feed, read from the history page by page and written
//! before the session follows the feed. Meanwhile the session reads, answers, pings and publishes
//! as at any other time.

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep};

use super::{CloseReason, Ended, Output, Session, Stage, Tally};
use crate::client::rate::LEAST_RATE;
use crate::config::SlowClient;
use crate::feed::{Cursor, TAKE_BATCHES};
use crate::hub::{BrokerAway, ReplayPage, Subscription};
use crate::message::{Batch, put_gap};

/// How long a client may take nothing of what it is sent.
const STALL_PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of one write. The kernel may take a whole write although little more than this may lie
/// there unsent, and the client's next pong and ping lie behind that.
const WRITE_BYTES: usize = 16 * 1024;

/// A client's way through what is older than the live feed.
pub(in crate::ws) struct Replay {
    /// Brings the next page. Polled only once the page before is written: a session holds one at a
    /// time.
    next: Pin<Box<dyn Future<Output = Fetched> + Send>>,
    /// Batches of the current page that are not written yet. The session's cursor is in the first
    /// of them.
    page: Vec<Arc<Batch>>,
    patience: Patience,
}

/// A page, or `None` if the live feed comes next, and its subscription again.
type Fetched = Result<(Option<ReplayPage>, Subscription), BrokerAway>;

impl Replay {
    pub(in crate::ws) fn new(subscription: Subscription) -> Self {
        Self {
            next: Box::pin(fetch(subscription)),
            page: Vec::new(),
            patience: Patience::new(),
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, BrokerAway>> {
        self.next
            .as_mut()
            .poll(context)
            .map_ok(|(page, subscription)| match page {
                None => Next::Live(subscription),
                Some(page) => {
                    self.next = Box::pin(fetch(subscription));
                    Next::Page(page)
                }
            })
    }
}

/// The next thing that a replay brings.
enum Next {
    Page(ReplayPage),
    Live(Subscription),
}

async fn fetch(mut subscription: Subscription) -> Fetched {
    let page = subscription.next_replay_page().await?;
    Ok((page, subscription))
}

impl Session {
    /// Writes once of what is older than the live feed, or goes over to the feed.
    pub(super) fn write_older(
        &mut self,
        context: &mut Context<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<Ended, Poll<()>> {
        let Some(Stage::Replay(replay)) = self.stage.as_deref_mut() else {
            return ControlFlow::Continue(Poll::Pending);
        };
        if replay.page.is_empty() {
            match replay.poll_next(context) {
                // Pings and pongs are written meanwhile.
                Poll::Pending => {}
                // Without its history a client has to come back: it is told nothing false, and what
                // it knows still holds.
                Poll::Ready(Err(BrokerAway)) => {
                    return ControlFlow::Break(CloseReason::Disconnected);
                }
                Poll::Ready(Ok(Next::Live(subscription))) => {
                    let (_membership, cursor) = subscription.into_live();
                    (self.cursor, self.stage) = (cursor, None);
                    return ControlFlow::Continue(Poll::Ready(()));
                }
                Poll::Ready(Ok(Next::Page(page))) => self.turn_page(page),
            }
        }
        self.write_page(context, tally)
    }

    fn turn_page(&mut self, page: ReplayPage) {
        let Some(Stage::Replay(replay)) = self.stage.as_deref_mut() else {
            return;
        };
        let (gap, batches, skip) = page.into_parts();
        if let Some(missed) = gap {
            let mut mark = Vec::new();
            put_gap(self.recipient.format, missed, &mut mark);
            self.write_buffer.push_framed(&mark);
        }
        self.cursor = Cursor::detached(self.membership.channel().feed.clone(), skip);
        replay.page = batches;
        replay.patience = Patience::new();
    }

    fn write_page(
        &mut self,
        context: &mut Context<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<Ended, Poll<()>> {
        let Some(Stage::Replay(replay)) = self.stage.as_deref_mut() else {
            return ControlFlow::Continue(Poll::Pending);
        };
        let taken = &replay.page[..replay.page.len().min(TAKE_BATCHES)];
        let output = Output::all(taken, &self.cursor, &self.write_buffer, self.recipient);
        if output.encoded > 0 {
            tally.work += output.encoded;
            self.shared.hub.make_room();
        }
        if output.is_empty() && taken.is_empty() {
            return ControlFlow::Continue(Poll::Pending);
        }
        let written = match output.is_empty() {
            // Marks that this format does not show, or its own messages.
            true => Poll::Ready(Ok(0)),
            false => self.socket.write(&beginning(&output.slices(), WRITE_BYTES)),
        };
        let written = match written {
            Poll::Ready(Ok(written)) if written > 0 || output.is_empty() => written,
            Poll::Ready(_) => return self.write_failed(),
            Poll::Pending if !taken.is_empty() && replay.patience.is_over(context) => {
                return self.stalled();
            }
            Poll::Pending => return ControlFlow::Continue(Poll::Pending),
        };
        let progress = output.progress(written);
        progress.apply(
            &mut self.cursor,
            taken,
            &mut self.write_buffer,
            self.recipient,
        );
        replay.page.drain(..progress.batch);
        replay.patience.earn(written);
        let sent = tally.sent(self.transport());
        sent.bytes += written as u64;
        sent.messages += progress.messages;
        ControlFlow::Continue(Poll::Ready(()))
    }

    fn stalled(&mut self) -> ControlFlow<Ended, Poll<()>> {
        self.shared
            .metrics
            .slow_clients
            .with_label_values(&[SlowClient::Disconnect.label()])
            .inc();
        self.begin_close(CloseReason::Slow, "too slow, come back");
        ControlFlow::Continue(Poll::Ready(()))
    }

    /// Gives the replay up, except for an item that was begun: its rest comes before everything
    /// else.
    pub(super) fn end_replay(&mut self) {
        if self
            .stage
            .take_if(|stage| matches!(**stage, Stage::Replay(_)))
            .is_none()
        {
            return;
        }
        let format = self.recipient.format;
        if let Some((batch, end)) = self.cursor.unfinished_item(format) {
            self.write_buffer
                .push_first(&batch.bytes(format)[self.cursor.sent(&batch, format)..end]);
        }
        self.cursor = Cursor::detached(self.membership.channel().feed.clone(), 0);
    }
}

/// The first so many bytes.
fn beginning<'a>(slices: &'a [IoSlice<'_>], most: usize) -> SmallVec<[IoSlice<'a>; 8]> {
    let mut room = most;
    let mut first = SmallVec::new();
    for slice in slices {
        if room == 0 {
            break;
        }
        let taken = slice.len().min(room);
        first.push(IoSlice::new(&slice[..taken]));
        room -= taken;
    }
    first
}

/// Time that a client has left: it takes at least [`LEAST_RATE`], and never nothing for
/// [`STALL_PATIENCE`].
#[derive(Debug)]
struct Patience(Pin<Box<Sleep>>);

impl Patience {
    fn new() -> Self {
        Self(Box::pin(sleep(STALL_PATIENCE)))
    }

    /// The client has taken so many bytes.
    fn earn(&mut self, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
        let end = (self.0.deadline() + earned).min(Instant::now() + STALL_PATIENCE);
        self.0.as_mut().reset(end);
    }

    /// Whether it is over; if not, the task is woken when it is.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.0.as_mut().poll(context).is_ready()
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Replay")
            .field("page", &self.page.len())
            .finish_non_exhaustive()
    }
}
