//! Redis' answers to a pipeline: each batch in it is held, refused, or sent again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult, Value, from_redis_value};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use super::super::fitness;
use super::super::history::find;
use super::super::warnings::Trouble;
use super::failure::Failure;
use super::{Publisher, Sending};
use crate::hub::{Channel, PendingBatch, PublishError};
use crate::message::MessageId;
use crate::metrics::LossCause;

/// Messages of one pipeline that are looked for in the history after an answer was lost; those
/// beyond have no id.
const LOOKUPS: usize = 64;

/// How long batches wait for another server to take over from one that refuses them, where there
/// are others.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);

/// The script's third answer: the batch has been published, now or before.
const PUBLISHED: u8 = 1;

/// The same: it has been published, in a history that began anew because the channel's keys made no
/// sense.
const BEGUN_ANEW: u8 = 3;

/// The same: its key belongs to another message.
const KEY_TAKEN: u8 = 2;

impl Publisher<'_> {
    /// Takes in the answers; what is left is to be sent again, because of the error that is
    /// returned.
    pub(super) async fn settle(
        &mut self,
        answers: Vec<RedisResult<Value>>,
        said: &mut UnboundedReceiver<Arc<Channel>>,
    ) -> Option<RedisError> {
        let (mut left, mut error) = (Vec::new(), None::<RedisError>);
        let mut refused_for_good = HashMap::new();
        let mut lookups = LOOKUPS;
        for (mut this, answer) in std::mem::take(&mut self.load.sending)
            .into_iter()
            .zip(answers)
        {
            let refused = match answer {
                Ok(answer) => {
                    match self.last_id(&this, answer, &mut lookups).await {
                        Ok(last) => this.pending.acknowledge(last),
                        Err(why) => self.refuse_key(&mut this.pending, &why),
                    }
                    self.done(&this.pending);
                    continue;
                }
                Err(refused) => refused,
            };
            // Behind one that waits, they wait as long.
            let refused = match &error {
                Some(before)
                    if refused.code() == Some("OUTOFORDER")
                        && Failure::of(before) != Failure::Again =>
                {
                    before.clone()
                }
                // Behind one that will never be taken, because of its channel, they will not be
                // either.
                _ if refused.code() == Some("OUTOFORDER") => refused_for_good
                    .get(&this.pending.channel.publisher_id)
                    .cloned()
                    .unwrap_or(refused),
                _ => refused,
            };
            let failure = Failure::of(&refused);
            if matches!(refused.code(), Some("WRONGTYPE" | "NOPERM")) && failure == Failure::Never {
                refused_for_good.insert(this.pending.channel.publisher_id, refused.clone());
            }
            let waits = !self.is_final(
                failure,
                this.refused_at.get_or_insert_with(Instant::now).elapsed(),
            );
            // Nobody is told that it is not published if it may be.
            let unknown = failure.is_of_server() && this.unanswered > 0;
            if failure == Failure::Never || (this.pending.has_receipts() && !waits && !unknown) {
                self.refuse(&mut this.pending, &refused, failure == Failure::Never);
            } else {
                left.push(this);
            }
            if failure.is_of_server() {
                self.server.suspect();
            }
            if failure != Failure::Never {
                error.get_or_insert(refused);
            }
        }
        self.load.sending = left;
        if let Some(error) = error
            .as_ref()
            .filter(|error| self.is_final(Failure::of(error), Duration::ZERO))
        {
            self.take_all(said);
            self.refuse_waiting(error);
        }
        if self.load.sending.is_empty() {
            None
        } else {
            error
        }
    }

    /// Whether those who can be told of a refusal are told now, `waited` after it came first.
    fn is_final(&self, failure: Failure, waited: Duration) -> bool {
        match failure {
            Failure::Again => false,
            Failure::Elsewhere => {
                self.redis.topology.is_one_server() || waited >= TAKEOVER_PATIENCE
            }
            Failure::Forbidden | Failure::Full | Failure::Never => true,
        }
    }

    /// While some batches wait for Redis to take anything again, those behind them would wait, too.
    fn refuse_waiting(&mut self, error: &RedisError) {
        for mut pending in self.load.queue.take() {
            if pending.has_receipts() {
                self.refuse(&mut pending, error, false);
            } else {
                self.load.queue.push(pending);
            }
        }
    }

    /// Counted only by whoever asked: without a receipt nobody is told.
    fn refuse_key(&self, pending: &mut PendingBatch, why: &PublishError) {
        if !pending.has_receipts() {
            self.link
                .metrics
                .lost(LossCause::Refused, pending.count as u64);
        }
        pending.reject(why);
    }

    fn refuse(&self, pending: &mut PendingBatch, error: &RedisError, loudly: bool) {
        let why = PublishError::Rejected(format!("redis says {}", fitness::words(error)));
        if loudly
            && self
                .redis
                .warnings
                .allows(Trouble::Refused, &pending.channel.name)
        {
            tracing::error!(
                channel = pending.channel.name.as_str(),
                messages = pending.count,
                "{why}"
            );
        }
        if !pending.has_receipts() {
            self.link
                .metrics
                .lost(LossCause::Refused, pending.count as u64);
        }
        pending.channel.feed.confirm(pending.last());
        pending.reject(&why);
        self.done(pending);
    }

    fn done(&self, pending: &PendingBatch) {
        self.link.hub.inbox().settle(pending);
    }

    /// The id of a batch's last message, if Redis holds it and somebody wants to know.
    ///
    /// # Errors
    /// If its key belongs to another message.
    async fn last_id(
        &mut self,
        sending: &Sending,
        answer: Value,
        lookups: &mut usize,
    ) -> Result<Option<MessageId>, PublishError> {
        if self.redis.retention.messages == 0 {
            return Ok(None);
        }
        let PendingBatch { channel, .. } = &sending.pending;
        let Ok((epoch, offset, mut outcome)) = from_redis_value::<(Vec<u8>, u64, u8)>(answer)
        else {
            return Ok(None);
        };
        if outcome == BEGUN_ANEW {
            outcome = PUBLISHED;
            if self
                .redis
                .warnings
                .allows(Trouble::Unreadable, &channel.name)
            {
                let channel = channel.name.as_str();
                warn!(
                    channel,
                    "began a new history: somebody else had written to this channel's keys in redis"
                );
            }
        }
        let Ok(epoch) = epoch.try_into().map(u64::from_le_bytes) else {
            return Ok(None);
        };
        let id = MessageId { epoch, offset };
        if outcome != PUBLISHED {
            // It will not come back.
            channel.feed.confirm(sending.pending.last());
        } else if offset > 0 {
            channel.in_flight.acknowledged(sending.pending.last(), id);
        }
        match outcome {
            KEY_TAKEN => Err(PublishError::KeyTaken),
            _ if offset > 0 => Ok(Some(id)),
            _ => Ok(self.look_up(sending, lookups).await),
        }
    }

    /// The id of a batch that was published before by a pipeline whose answer was lost, if it was
    /// not the last of that.
    async fn look_up(&mut self, sending: &Sending, lookups: &mut usize) -> Option<MessageId> {
        let channel = &sending.pending.channel;
        if !sending.pending.has_receipts() {
            return None;
        }
        *lookups = lookups.checked_sub(1)?;
        let stream = self.redis.names.stream(&channel.name);
        let found = find(
            self.connection.as_mut()?,
            &stream,
            sending.envelope.publisher_id(),
            sending.envelope.first(),
        )
        .await;
        found.unwrap_or_else(|error| {
            warn!("cannot look up what a message is called: {error:#}");
            None
        })
    }
}
