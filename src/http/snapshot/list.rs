//! The messages of one answer as JSON, collected a little at a time.

use std::ops::ControlFlow;

use tokio::sync::Semaphore;

use crate::client::rejection::Rejection;
use crate::feed::{Cursor, Lagged, Taken};
use crate::hub::{ReplayPage, Subscription};
use crate::message::{Batch, Missed, put_json};

/// Bytes of messages in one answer. The client has to ask again for later ones.
pub(super) const ANSWER_BYTES: usize = 1024 * 1024;

/// Bytes of an answer that are written before other tasks get their turn.
const TURN_BYTES: usize = 16 * 1024;

/// The messages of one answer.
pub(super) struct MessageList {
    /// Messages as JSON, with commas between them.
    pub(super) json: Vec<u8>,
    /// How many these are.
    pub(super) messages: u64,
    /// Bytes it had when other tasks had their turn.
    yielded_at: usize,
    /// How many messages are missing in it.
    pub(super) missed: Missed,
    /// The feed trimmed messages before they were collected.
    pub(super) has_lagged: bool,
}

impl MessageList {
    /// Everything from where the subscription begins to now, as far as it fits.
    pub(super) async fn collect(
        subscription: Subscription,
        collecting: &Semaphore,
    ) -> Result<Self, Rejection> {
        let mut list = Self {
            json: Vec::new(),
            messages: 0,
            yielded_at: 0,
            missed: Missed::Exactly(0),
            has_lagged: false,
        };
        let _is_full = list.add_all(subscription, collecting).await?;
        Ok(list)
    }

    async fn add_all(
        &mut self,
        mut subscription: Subscription,
        collecting: &Semaphore,
    ) -> Result<ControlFlow<()>, Rejection> {
        // First the history that the feed does not have. The turn is taken only after the broker
        // has answered, so that one slow history does not delay all other answers.
        while let Some(page) = subscription.next_replay_page().await? {
            let _turn = collecting.acquire().await;
            if self.add_page(&page).await.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // Then the feed, without waiting for messages to come.
        let _turn = collecting.acquire().await;
        let (_membership, mut cursor) = subscription.into_live();
        let mut taken = Taken::new();
        while self.takes(&mut cursor, &mut taken) {
            if self.add_taken(&cursor, &taken).await.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            cursor.skip(&taken);
            taken.clear();
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn add_page(&mut self, page: &ReplayPage) -> ControlFlow<()> {
        self.add_missed(page.gap);
        for (batch, index) in page.messages() {
            self.add(batch, index).await?;
        }
        ControlFlow::Continue(())
    }

    async fn add_taken(&mut self, cursor: &Cursor, taken: &Taken) -> ControlFlow<()> {
        for (position, batch) in taken.iter().enumerate() {
            self.add_missed(batch.gap);
            // The cursor may stand within its first batch.
            let first = if position == 0 {
                cursor.messages_behind()
            } else {
                0
            };
            for index in first..batch.len() {
                self.add(batch, index).await?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Adds a message. Breaks once the list is full.
    async fn add(&mut self, batch: &Batch, index: usize) -> ControlFlow<()> {
        if let Some((kind, payload)) = batch.message(index) {
            if self.messages > 0 {
                self.json.push(b',');
            }
            let (id, time) = (batch.id(index), batch.time_ms());
            put_json(id, time, kind, payload, &mut self.json);
            self.messages += 1;
        }
        if self.json.len() - self.yielded_at >= TURN_BYTES {
            self.yielded_at = self.json.len();
            // Writing JSON takes time, and deliveries of other tasks must not wait for all of it.
            tokio::task::yield_now().await;
        }
        if self.is_full() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Takes what the feed has now. A client that was overtaken asks again after its last message.
    fn takes(&mut self, cursor: &mut Cursor, taken: &mut Taken) -> bool {
        match cursor.take_now(taken) {
            Ok(some) => some,
            Err(Lagged) => {
                self.has_lagged = true;
                false
            }
        }
    }

    fn add_missed(&mut self, gap: Option<Missed>) {
        if let Some(missed) = gap {
            self.missed = self.missed + missed;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.json.len() >= ANSWER_BYTES
    }
}
