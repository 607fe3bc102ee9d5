//! The feed of a channel: a bounded window of batches with one writer, the broker, and many
//! readers, each with a cursor. It owns order, replay, lag and waking; what is done with the bytes
//! is the readers' business.
//!
//! A reader that has seen everything waits in its seat, or shares one with a [`Group`]. The
//! [`FeedWriter`] appends a batch and wakes who waits; a reader takes whatever has piled up since its last visit, so
//! one wake and one write carry many messages when there is much to say.

mod backfill;
mod cursor;
mod group;
mod walk;
mod window;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::timeout;

pub use self::cursor::{Cursor, Lagged, TAKE_BATCHES, Taken};
pub use self::group::{Group, GroupBatches};
use self::walk::Walk;
use self::window::{Seat, SeatState, Window};
pub use self::writer::{Accepted, FeedWriter};
use crate::budget::Budget;
use crate::message::MessageId;
use crate::metrics::Gauge;

/// How long the writer waits at most for readers to have their turn: see [`Feed::turn`].
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// How much a feed keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Messages kept for replay; what connected readers still need is kept beyond it.
    pub messages: usize,
    /// Bytes of those messages kept for replay, and in Redis.
    pub history_bytes: usize,
    /// Bytes kept at most, whoever still needs them. The newest batch is always kept.
    pub bytes: usize,
    /// After this time without a message nothing is replayed.
    pub ttl: Duration,
}

/// Where a new reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes next.
    Newest,
    /// With the newest N messages kept, as far as retention allows.
    Last(usize),
    /// With what came after this message.
    After(MessageId),
}

/// Where a place in a channel's history is.
#[derive(Debug)]
pub enum Found {
    /// Here.
    Here {
        /// A reader there.
        cursor: Cursor,
        /// Nothing that came after it is missing.
        whole: bool,
    },
    /// Before the window begins.
    Earlier {
        /// The epoch of the window.
        epoch: u64,
        /// The offset that was looked for.
        offset: u64,
        /// The offset of the first message after it in the window.
        kept_from: u64,
        /// Nothing is missing in the window.
        whole: bool,
        /// The broker's history is known to have nothing before the window.
        gone: bool,
    },
    /// It has not come yet.
    Ahead,
    /// In another history.
    Elsewhere,
}

/// A bounded window of batches: one writer, many [`Cursor`]s.
#[derive(Debug)]
pub struct Feed {
    window: Mutex<Window>,
    /// Told when every reader that was woken has had its turn.
    all_had_their_turn: Notify,
    retention: Retention,
    budget: Arc<Budget>,
    bytes_gauge: Gauge,
}

impl Feed {
    fn new(retention: Retention, epoch: u64, budget: Arc<Budget>, bytes_gauge: Gauge) -> Self {
        let (window, all_had_their_turn) = (Mutex::new(Window::new(epoch)), Notify::new());
        Self {
            window,
            all_had_their_turn,
            retention,
            budget,
            bytes_gauge,
        }
    }

    /// Whether the writer should wait for [`Self::turn`] before it adds more: much has been
    /// appended, and some readers that were woken have not had their turn since. A burst longer
    /// than the window would otherwise push out messages that nobody has been asked to read yet. A
    /// reader whose socket is full has had its turn, so it slows nobody.
    pub fn is_ahead(&self) -> bool {
        let window = self.lock();
        window.woken > 0 && window.unsettled >= self.retention.bytes / 4
    }

    /// Waits until every reader that was woken has had its turn, but not for ever.
    pub async fn turn(&self) {
        let mut turn = std::pin::pin!(self.all_had_their_turn.notified());
        turn.as_mut().enable();
        if self.lock().woken == 0 {
            return;
        }
        if timeout(TURN_PATIENCE, turn).await.is_err() {
            tracing::debug!("some readers had no turn within {TURN_PATIENCE:?}");
            self.lock().unsettled = 0;
        }
    }

    /// To be awaited between batches by a writer that serves nothing but this feed.
    pub async fn settled(&self) {
        if self.is_ahead() {
            self.turn().await;
        }
    }

    /// The epoch, 0 if none is known yet, and the offset of the message that comes next.
    pub fn expects(&self) -> (u64, u64) {
        let window = self.lock();
        (window.epoch, window.next_offset)
    }

    /// What the newest message is called; `None` if there are no ids because nobody keeps history.
    pub fn newest(&self) -> Option<MessageId> {
        let window = self.lock();
        match window.epoch {
            0 => (self.retention.messages > 0).then_some(MessageId::START),
            epoch => Some(MessageId {
                epoch,
                offset: window.next_offset - 1,
            }),
        }
    }

    /// A new reader from the newest on: it misses nothing that is appended from now on.
    pub fn follow(self: &Arc<Self>) -> Cursor {
        let window = self.lock();
        let end = window.end();
        self.sit_down(window, (end, 0))
    }

    /// A new reader where one wants to begin, if that is here.
    pub fn find(self: &Arc<Self>, start: Start) -> Found {
        let window = self.lock();
        let (place, whole) = match start {
            Start::Newest => ((window.end(), 0), true),
            Start::Last(_) if window.is_expired(self.retention.ttl) => ((window.end(), 0), true),
            Start::Last(count) => {
                let count = count.min(self.retention.messages);
                if count > window.messages && window.epoch != 0 && !window.is_exhausted() {
                    let offset = window.next_offset.saturating_sub(count as u64).max(1);
                    let kept_from = window.kept_from(offset);
                    if kept_from > offset {
                        let epoch = window.epoch;
                        return Found::Earlier {
                            epoch,
                            offset,
                            kept_from,
                            whole: true,
                            gone: false,
                        };
                    }
                }
                (window.newest(count), true)
            }
            // Without history nothing can be gone on with.
            Start::After(_) if window.epoch == 0 && window.next_offset > 1 => {
                return Found::Elsewhere;
            }
            Start::After(id) => {
                // Whoever saw the channel before its first message goes on with that, whatever
                // history it is in.
                let (epoch, offset) = if id.epoch == 0 {
                    (window.epoch, 1)
                } else {
                    (id.epoch, id.offset.saturating_add(1))
                };
                match window.after(epoch, offset) {
                    _ if epoch == window.epoch && offset == window.next_offset => {
                        ((window.end(), 0), true)
                    }
                    Some(place) => (place, !window.has_gap_from(place.0)),
                    None if epoch != window.epoch => return Found::Elsewhere,
                    None if offset > window.next_offset => return Found::Ahead,
                    None => {
                        let (kept_from, whole) =
                            (window.kept_from(offset), !window.has_gap_from(window.first));
                        let gone = window.is_exhausted();
                        return Found::Earlier {
                            epoch,
                            offset,
                            kept_from,
                            whole,
                            gone,
                        };
                    }
                }
            }
        };
        Found::Here {
            cursor: self.sit_down(window, place),
            whole,
        }
    }

    fn sit_down(
        self: &Arc<Self>,
        mut window: MutexGuard<'_, Window>,
        place: (u64, usize),
    ) -> Cursor {
        let seat = window.sit_down(Waker::noop().clone(), SeatState::Behind, place.0);
        Cursor::new(self.clone(), seat, &window, place)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Gives up the oldest batches until it holds at most so many bytes; returns how many bytes it
    /// gave up. Readers that lag for that are woken. Those that keep up lose nothing: what they
    /// have not been shown stays.
    pub fn shorten(&self, upto: usize) -> usize {
        let mut window = self.lock();
        let before = window.bytes;
        let keep_up = |seat: &&Seat| matches!(seat.state, SeatState::Waiting | SeatState::Woken);
        let shown = window
            .seats
            .iter()
            .map(|(_, seat)| seat)
            .filter(keep_up)
            .map(|seat| seat.position)
            .min();
        window.shorten(upto, shown.unwrap_or(u64::MAX));
        let freed = before - window.bytes;
        self.bytes_gauge.sub(freed as i64);
        let first = window.first;
        for (_, seat) in &mut window.seats {
            if seat.position < first && seat.state == SeatState::Behind {
                seat.waker.wake_by_ref();
            }
        }
        freed
    }

    /// How long ago the newest message came, if there ever was one.
    pub fn idle(&self) -> Option<Duration> {
        let window = self.lock();
        let was_used = window.next_offset > 1 || !window.batches.is_empty();
        was_used.then(|| window.appended.elapsed())
    }

    /// Wakes everybody who waits or has lagged out, and learns what is still needed.
    fn wake(&self) {
        let mut walk = Walk::begin(&mut self.lock());
        while !walk.step(&mut self.lock()) {}
    }

    fn leave(&self, window: &mut Window, seat: usize) {
        if window.seats.remove(seat).state == SeatState::Woken {
            self.had_its_turn(window);
        }
        if window.seats.is_empty() {
            // Every append walks the seats, also those that many clients once had.
            window.seats = Slab::new();
        }
    }

    fn had_its_turn(&self, window: &mut Window) {
        window.woken -= 1;
        if window.woken == 0 {
            window.unsettled = 0;
            self.all_had_their_turn.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // A panic of one reader must not take the channel from all others; the window is consistent
        // between statements.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.bytes_gauge.sub(self.lock().bytes as i64);
    }
}
