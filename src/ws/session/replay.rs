//! The replay: messages older than the live feed, read from the history page by page. The session
//! writes them before it follows the feed. Meanwhile it reads, answers, pings and publishes as at
//! any other time.

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep};

use super::output::Output;
use super::{CloseReason, PENDING, Progress, READY, Session, Stage, Tally};
use crate::client::rate::LEAST_RATE;
use crate::feed::{Cursor, TAKE_BATCHES};
use crate::hub::{BrokerAway, ReplayPage, Subscription};
use crate::message::Batch;
use crate::ws::socket::Socket;
use crate::ws::write_plan::WritePlan;

/// How long a client may take no bytes at all.
const STALL_PATIENCE: Duration = Duration::from_secs(20);

/// The most bytes of one write. The kernel takes a whole write although it should hold little more
/// than this unsent, and the client's next pong and ping would lie behind all of it.
const WRITE_BYTES: usize = 16 * 1024;

/// The state of one client's replay.
pub(super) struct Replay {
    /// Brings the next page. It is polled only once the page before is written, so that a session
    /// holds one at a time.
    next: Pin<Box<dyn Future<Output = Fetched> + Send>>,
    /// Batches of the current page that are not written yet. The session's cursor is in the first
    /// of them.
    page: Vec<Arc<Batch>>,
    patience: Patience,
}

/// The next page, or `None` if the live feed comes next; and the subscription again.
type Fetched = Result<(Option<ReplayPage>, Subscription), BrokerAway>;

impl Replay {
    pub(super) fn new(subscription: Subscription) -> Self {
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

    /// Drops batches that are written.
    fn advance(&mut self, batches: usize, bytes: usize) {
        self.page.drain(..batches);
        self.patience.earn(bytes);
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
    /// Writes once of the replay, or goes over to the live feed.
    pub(super) fn write_replay(
        &mut self,
        context: &mut Context<'_>,
        tally: &mut Tally,
    ) -> Progress {
        let Some(replay) = self.replay_mut() else {
            return PENDING;
        };
        if replay.page.is_empty() {
            match replay.poll_next(context) {
                // Pings and pongs are written meanwhile.
                Poll::Pending => {}
                // The client comes back and asks again. It was told nothing false.
                Poll::Ready(Err(BrokerAway)) => {
                    return ControlFlow::Break(CloseReason::Disconnected);
                }
                Poll::Ready(Ok(Next::Live(subscription))) => {
                    // The session has a membership of its own since it began.
                    let (_membership, cursor) = subscription.into_live();
                    (self.output.cursor, self.stage) = (cursor, None);
                    return READY;
                }
                Poll::Ready(Ok(Next::Page(page))) => self.turn_page(page),
            }
        }
        self.write_page(context, tally)
    }

    fn turn_page(&mut self, page: ReplayPage) {
        let (gap, batches, skip) = page.into_parts();
        if let Some(missed) = gap {
            self.output.push_gap(missed);
        }
        // The cursor reads the page until it is written.
        self.output.cursor = Cursor::detached(self.feed().clone(), skip);
        if let Some(replay) = self.replay_mut() {
            replay.page = batches;
            replay.patience = Patience::new();
        }
    }

    fn write_page(&mut self, context: &mut Context<'_>, tally: &mut Tally) -> Progress {
        let Some(Stage::Replay(replay)) = self.stage.as_deref_mut() else {
            return PENDING;
        };
        let batches = &replay.page[..replay.page.len().min(TAKE_BATCHES)];
        // Own frames are written also while the next page is awaited.
        let plan = self.output.plan(batches, None);
        if plan.encoded > 0 {
            // The batches count in the budget with their encodings. No feed holds them, so there
            // is none to account them to.
            tally.work += plan.encoded;
            self.shared.hub.make_room();
        }
        if plan.is_empty() && batches.is_empty() {
            return PENDING;
        }
        let bytes = match write_some(&mut self.socket, &plan) {
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Ready(Err(_)) => return self.write_failed(),
            // Only a client that something waits for can be too slow.
            Poll::Pending if !batches.is_empty() && replay.patience.is_over(context) => {
                self.close_slow();
                return READY;
            }
            Poll::Pending => return PENDING,
        };
        let written = plan.written(bytes);
        self.output.advance(written, batches);
        replay.advance(written.batches(), bytes);
        tally.count_sent(self.transport(), bytes, written.messages);
        READY
    }

    /// Gives the replay up, except for an item that was begun. Its rest comes before everything
    /// else.
    pub(super) fn end_replay(&mut self) {
        if self.replay_mut().is_none() {
            return;
        }
        self.stage = None;
        // The page is dropped, so the rest of the item moves to the write buffer.
        if let Some((batch, end)) = self.output.unfinished_item() {
            let Output {
                cursor,
                recipient,
                buffer,
                ..
            } = &mut self.output;
            let sent = cursor.sent(&batch, recipient.format);
            buffer.push_first(&batch.bytes(recipient.format)[sent..end]);
        }
        self.output.cursor = Cursor::detached(self.feed().clone(), 0);
    }
}

/// Writes the beginning of a plan. Returns how many bytes: 0 if there are none, because it has only
/// gap marks that its format does not show, or messages of its client's own.
fn write_some(socket: &mut Socket, plan: &WritePlan<'_>) -> Poll<io::Result<usize>> {
    if plan.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let result = socket.write(&beginning(&plan.slices(), WRITE_BYTES));
    result.map(|result| match result? {
        0 => Err(ErrorKind::WriteZero.into()),
        bytes => Ok(bytes),
    })
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

/// The time that a client has left: it must take [`LEAST_RATE`] on average, and something within
/// every [`STALL_PATIENCE`].
#[derive(Debug)]
struct Patience(Pin<Box<Sleep>>);

impl Patience {
    fn new() -> Self {
        Self(Box::pin(sleep(STALL_PATIENCE)))
    }

    /// The client has taken so many bytes, which gives it more time.
    fn earn(&mut self, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
        // Time earned by fast reading does not add up: it could stall for minutes later.
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
