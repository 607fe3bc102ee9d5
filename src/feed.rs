//! The feed of a channel: a bounded window of batches with one writer, the broker, and many
//! readers, each with a cursor. It owns order, replay, lag and waking. Readers decide what to do
//! with the bytes.
//!
//! A reader that has read everything waits, alone or in a [`Group`]. The [`FeedWriter`] adds a batch
//! and wakes the waiting readers. A reader takes all batches since its last turn, so that one wake
//! and one write carry many messages when there are many.

mod backfill;
mod cursor;
mod find;
mod group;
mod walk;
mod window;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use self::cursor::{Cursor, Lagged, TAKE_BATCHES, Taken};
pub(crate) use self::find::{BeforeWindow, Found, NotInWindow, Start};
pub(crate) use self::group::{Group, GroupBatches};
use self::walk::Walk;
use self::window::{ReaderSlot, ReaderState, Window};
pub(crate) use self::writer::{Accepted, FeedWriter};
use crate::budget::Budget;
use crate::message::MessageId;
use crate::metrics::Gauge;

/// How long the writer waits at most for readers to have their turn: see [`Feed::turn`].
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// How much a feed keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Messages kept for replay. Batches that connected readers still need are kept beyond it.
    pub messages: usize,
    /// Bytes of those messages kept for replay, and in Redis.
    pub history_bytes: usize,
    /// Bytes kept at most, even if readers still need more. The newest batch is always kept.
    pub bytes: usize,
    /// Nothing is replayed after this time without a message.
    pub ttl: Duration,
}

/// A bounded window of batches: one writer, many [`Cursor`]s.
#[derive(Debug)]
pub struct Feed {
    window: Mutex<Window>,
    /// Notified when every reader that was woken has had its turn.
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

    /// Whether the writer should wait for [`Self::turn`] before it adds more: it has appended much
    /// since some woken readers had their turn. A burst longer than the window would otherwise push
    /// out messages before any reader could take them. A reader whose socket is full has had its
    /// turn, so it slows nobody.
    pub(crate) fn is_ahead(&self) -> bool {
        let window = self.lock();
        window.woken > 0 && window.unsettled >= self.retention.bytes / 4
    }

    /// Waits until every reader that was woken has had its turn, but not for ever.
    pub(crate) async fn turn(&self) {
        let mut turn = std::pin::pin!(self.all_had_their_turn.notified());
        // Before the look, so that no turn between look and wait is overlooked.
        turn.as_mut().enable();
        if self.lock().woken == 0 {
            return;
        }
        if timeout(TURN_PATIENCE, turn).await.is_err() {
            // A stuck thread must not stop the channel.
            tracing::debug!("some readers had no turn within {TURN_PATIENCE:?}");
            self.lock().unsettled = 0;
        }
    }

    /// Waits while the writer is ahead. For writers that serve only this feed, between batches.
    pub(crate) async fn settled(&self) {
        if self.is_ahead() {
            self.turn().await;
        }
    }

    /// The epoch, 0 if none is known yet, and the offset of the message that comes next.
    pub(crate) fn expects(&self) -> (u64, u64) {
        let window = self.lock();
        (window.epoch, window.next_offset)
    }

    /// The id of the newest message; `None` if there are no ids because no history is kept.
    pub(crate) fn newest(&self) -> Option<MessageId> {
        let window = self.lock();
        match window.epoch {
            0 => (self.retention.messages > 0).then_some(MessageId::START),
            epoch => Some(MessageId {
                epoch,
                offset: window.next_offset - 1,
            }),
        }
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Drops the oldest batches until the rest has at most `bytes`; returns the bytes dropped.
    /// Readers that lag out by that are woken. Readers that keep up lose nothing: batches that they
    /// have not been shown stay.
    pub(crate) fn shorten(&self, bytes: usize) -> usize {
        let mut window = self.lock();
        let keeps_up =
            |reader: &ReaderSlot| matches!(reader.state, ReaderState::Waiting | ReaderState::Woken);
        let readers = window.readers.iter().map(|(_, reader)| reader);
        let positions = readers
            .filter(|reader| keeps_up(reader))
            .map(|reader| reader.position);
        let keep = positions.min().unwrap_or(u64::MAX);

        let before = window.bytes;
        window.shorten(bytes, keep);
        let freed = before - window.bytes;
        self.bytes_gauge.sub(freed as i64);

        // The others hold bytes of batches that they wait to write: they learn of it at once.
        let first = window.first;
        for (_, reader) in &window.readers {
            if reader.state == ReaderState::Behind && reader.position < first {
                reader.waker.wake_by_ref();
            }
        }
        freed
    }

    /// How long ago the newest message came, if there ever was one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let window = self.lock();
        let was_used = window.next_offset > 1 || !window.batches.is_empty();
        was_used.then(|| window.appended.elapsed())
    }

    /// Wakes all readers that wait or have lagged out, and learns which batches are still needed.
    fn wake(&self) {
        let mut walk = Walk::begin(&mut self.lock());
        while !walk.step(&mut self.lock()) {}
    }

    fn remove_reader(&self, window: &mut Window, reader: usize) {
        if window.readers.remove(reader).state == ReaderState::Woken {
            self.had_its_turn(window);
        }
        if window.readers.is_empty() {
            // Every walk visits the whole capacity, which once may have been that of many clients.
            window.readers = Slab::new();
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
        // A panic of one reader must not take the channel from all others. The window is consistent
        // between statements.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.bytes_gauge.sub(self.lock().bytes as i64);
    }
}
