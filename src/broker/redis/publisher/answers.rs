//! Redis' answers to a pipeline: each batch in it was published, is refused, or is sent again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult, Value, from_redis_value};
use tracing::{error, warn};

use super::super::fitness;
use super::super::warnings::Trouble;
use super::failure::Failure;
use super::{Publisher, Sending, Work};
use crate::hub::{PendingBatch, PublishError};
use crate::message::{MessageId, PublisherId};
use crate::metrics::LossCause;

/// Batches of one pipeline that are looked up in the history after an answer was lost; those beyond
/// get no id.
const LOOKUPS: usize = 64;

/// How long batches wait for another server to take over from one that refuses them, where there
/// are others.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);

/// The outcome of `publish.lua` for a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The history has this message under its key already.
    RepeatsKey,
    /// It is published, now or by an earlier call.
    Published,
    /// Its key belongs to another message.
    KeyTaken,
    /// It is published, in a new history, because the channel's keys made no sense.
    BeganAnew,
}

/// The answer of `publish.lua` to one batch.
struct Answer {
    outcome: Outcome,
    /// The epoch of the history.
    epoch: u64,
    /// The offset of the batch's last message; 0 if it is unknown.
    offset: u64,
}

/// The batches of one pipeline that were not published, and why.
#[derive(Default)]
struct Unsettled {
    /// To be sent again, in order.
    left: Vec<Sending>,
    /// The first error that keeps a batch waiting.
    error: Option<RedisError>,
    /// Channels of which a batch will never be taken, with the error. The batches behind it will
    /// not be taken either.
    refused: HashMap<PublisherId, RedisError>,
}

impl Publisher<'_> {
    /// Takes in the answers. Some batches may be left to be sent again, because of the error that
    /// is returned.
    pub(super) async fn settle(
        &mut self,
        answers: Vec<RedisResult<Value>>,
        work: &mut Work,
    ) -> Option<RedisError> {
        let mut unsettled = Unsettled::default();
        let mut lookups = LOOKUPS;
        for (sending, answer) in std::mem::take(&mut self.load.sending)
            .into_iter()
            .zip(answers)
        {
            match answer {
                Ok(answer) => self.published(sending, answer, &mut lookups).await,
                Err(error) => self.not_published(sending, error, &mut unsettled),
            }
        }
        let Unsettled { left, error, .. } = unsettled;
        self.load.sending = left;
        // Publishers that wait for an answer must not wait behind a batch for which nobody waits.
        if let Some(error) = &error
            && self.is_final(Failure::of(error), Duration::ZERO)
        {
            self.take_in(work);
            self.refuse_queued(error);
        }
        error.filter(|_| !self.load.sending.is_empty())
    }

    /// Redis has taken a batch, or has it already.
    async fn published(&mut self, sending: Sending, answer: Value, lookups: &mut usize) {
        // 1. What Redis did with it.
        let id = match Answer::read(answer) {
            Some(answer) => self.apply(&sending, &answer, lookups).await,
            // Without history Redis only answers how many subscribers there are.
            None => Ok(None),
        };
        // 2. Answer its receipts, and give its room in the inbox to others.
        let mut pending = sending.pending;
        pending.channel.skipped.settled(pending.first);
        match id {
            Ok(id) => pending.acknowledge(id),
            Err(why) => {
                self.count_refused(&pending);
                pending.reject(&why);
            }
        }
        self.link.hub.inbox().settle(&pending);
    }

    /// Notes what became of a batch; returns the id of its last message, if it is known.
    ///
    /// # Errors
    /// If its key belongs to another message.
    async fn apply(
        &mut self,
        sending: &Sending,
        answer: &Answer,
        lookups: &mut usize,
    ) -> Result<Option<MessageId>, PublishError> {
        let pending = &sending.pending;
        let id = answer.id();
        match answer.outcome {
            Outcome::Published | Outcome::BeganAnew => {
                if let Some(id) = id {
                    pending.channel.in_flight.acknowledged(pending.last(), id);
                }
            }
            // It will not be received back under this sequence.
            Outcome::RepeatsKey | Outcome::KeyTaken => {
                pending
                    .channel
                    .skipped
                    .add(pending.first, pending.count as u64);
                self.receivers.settle(&pending.channel, pending.last());
            }
        }
        match answer.outcome {
            Outcome::KeyTaken => return Err(PublishError::KeyTaken),
            Outcome::BeganAnew => self.warn_of_new_history(pending),
            Outcome::Published | Outcome::RepeatsKey => {}
        }
        match id {
            Some(id) => Ok(Some(id)),
            None => Ok(self.look_up(sending, lookups).await),
        }
    }

    /// The id of a batch that an earlier pipeline has published, whose answer was lost, and that
    /// was not the last of its publisher there.
    async fn look_up(&mut self, sending: &Sending, lookups: &mut usize) -> Option<MessageId> {
        if !sending.pending.has_receipts() {
            return None;
        }
        *lookups = lookups.checked_sub(1)?;
        self.connection.find(sending).await
    }

    fn warn_of_new_history(&self, pending: &PendingBatch) {
        let name = &pending.channel.name;
        if self.redis.warnings.allows(Trouble::Unreadable, name) {
            warn!(
                channel = name.as_str(),
                "began a new history: somebody else had written to this channel's keys in redis"
            );
        }
    }

    /// Redis has answered with an error: a batch is refused, or sent again.
    fn not_published(
        &mut self,
        mut sending: Sending,
        error: RedisError,
        unsettled: &mut Unsettled,
    ) {
        // 1. A batch that was only out of order shares the fate of the one before it.
        let channel = sending.pending.channel.publisher_id;
        let error = unsettled.cause(channel, error);
        let failure = Failure::of(&error);
        if failure.is_of_server() {
            self.server.suspect();
        }
        if matches!(error.code(), Some("WRONGTYPE" | "NOPERM")) && failure == Failure::Permanent {
            unsettled.refused.insert(channel, error.clone());
        }
        // 2. Refuse a batch that will never be taken. Refuse one with receipts as soon as the error
        // is final, unless an earlier call without an answer may have published it.
        let since = *sending.refused_at.get_or_insert_with(Instant::now);
        let may_be_published = failure.is_of_server() && sending.unanswered > 0;
        let can_be_refused = sending.pending.has_receipts()
            && self.is_final(failure, since.elapsed())
            && !may_be_published;
        if failure == Failure::Permanent {
            self.log_refused(&sending.pending, &error);
        }
        if failure == Failure::Permanent || can_be_refused {
            if sending.unanswered == 0 {
                sending.note_skipped();
            }
            self.refuse(sending.pending, &error);
        } else {
            unsettled.left.push(sending);
        }
        // 3. The others wait for this to pass.
        if failure != Failure::Permanent {
            unsettled.error.get_or_insert(error);
        }
    }

    /// Whether publishers that wait for an answer get this one, `waited` after it came first.
    fn is_final(&self, failure: Failure, waited: Duration) -> bool {
        match failure {
            Failure::Transient => false,
            Failure::WrongServer => {
                self.redis.topology.is_one_server() || waited >= TAKEOVER_PATIENCE
            }
            Failure::Forbidden | Failure::Full | Failure::Permanent => true,
        }
    }

    /// Refuses queued batches for which somebody waits.
    fn refuse_queued(&mut self, error: &RedisError) {
        for pending in self.load.queue.take() {
            if pending.has_receipts() {
                let channel = &pending.channel;
                channel.skipped.add(pending.first, pending.count as u64);
                self.refuse(pending, error);
            } else {
                self.load.queue.push(pending);
            }
        }
    }

    fn refuse(&self, mut pending: PendingBatch, error: &RedisError) {
        self.count_refused(&pending);
        self.receivers.settle(&pending.channel, pending.last());
        pending.reject(&refusal(error));
        self.link.hub.inbox().settle(&pending);
    }

    /// Counts messages without receipts as lost: nobody else learns that they were refused.
    fn count_refused(&self, pending: &PendingBatch) {
        if !pending.has_receipts() {
            let messages = pending.count as u64;
            self.link.metrics.lost(LossCause::Refused, messages);
        }
    }

    fn log_refused(&self, pending: &PendingBatch, error: &RedisError) {
        let name = &pending.channel.name;
        if self.redis.warnings.allows(Trouble::Refused, name) {
            error!(
                channel = name.as_str(),
                messages = pending.count,
                "{}",
                refusal(error)
            );
        }
    }
}

fn refusal(error: &RedisError) -> PublishError {
    PublishError::Rejected(format!("redis says {}", fitness::words(error)))
}

impl Unsettled {
    /// The error that decides about a batch: its own, or if it was only out of order, that of the
    /// batch before it.
    fn cause(&self, channel: PublisherId, error: RedisError) -> RedisError {
        if error.code() != Some("OUTOFORDER") {
            return error;
        }
        let before = self
            .error
            .as_ref()
            .filter(|before| Failure::of(before) != Failure::Transient);
        before
            .or_else(|| self.refused.get(&channel))
            .cloned()
            .unwrap_or(error)
    }
}

impl Answer {
    /// From `{epoch, offset, outcome}`; `None` if it is something else.
    fn read(answer: Value) -> Option<Self> {
        let (epoch, offset, outcome) = from_redis_value::<(Vec<u8>, u64, u8)>(answer).ok()?;
        Some(Self {
            outcome: match outcome {
                0 => Outcome::RepeatsKey,
                2 => Outcome::KeyTaken,
                3 => Outcome::BeganAnew,
                _ => Outcome::Published,
            },
            epoch: epoch.try_into().map(u64::from_le_bytes).ok()?,
            offset,
        })
    }

    /// The id of the batch's last message, if it is known.
    fn id(&self) -> Option<MessageId> {
        (self.offset > 0).then_some(MessageId {
            epoch: self.epoch,
            offset: self.offset,
        })
    }
}
