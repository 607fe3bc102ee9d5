//! A lane: publishing to one server. While one pipeline is on its way the inbox fills, and all of that is the next pipeline,
//! one script call a channel and batch: at low load nothing waits, under load one command carries many messages. It owns
//! what becomes of a batch that Redis does not take: sent again, refused, or handed back because its channel has moved.

mod cure;
mod pace;
mod queue;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use deadpool_redis::{Connection, Manager, Pool};
use prost::Message as _;
use redis::{Pipeline, RedisError, RedisResult, Script, Value, from_redis_value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::cure::Cure;
use self::pace::Pace;
pub(super) use self::queue::Queue;
use super::super::Link;
use super::super::envelope::{Envelope, Said};
use super::history::find;
use super::line::is_elsewhere;
use super::server::{self, Server};
use super::{Backoff, META_OUTLIVES, Redis};
use crate::channel::ChannelName;
use crate::hub::{Channel, Inbox, Outgoing, Unpublished};
use crate::message::{Digest, Kind, MessageId, now_ns};
use crate::metrics::LossCause;

/// A lane holds one connection; the pool makes and checks it, and a second one is there while a first is dying.
const CONNECTIONS: usize = 2;

/// What publishes a batch and keeps it: one call, so that history and delivery agree whatever breaks in between.
const SCRIPT: &str = include_str!("publish.lua");

/// What a command counts beside its payload: it takes Redis about as long as so many bytes.
const COMMAND_BYTES: usize = 256;

/// Messages of one pipeline that are looked for in the history after an answer was lost; those beyond have no id.
const LOOKUPS: usize = 64;

/// The script's third answer: the batch has been published, now or before.
const PUBLISHED: u8 = 1;

/// The same: its key belongs to another message.
const KEY_TAKEN: u8 = 2;

/// Bytes of a pipeline.
fn bytes(sending: &[Sending]) -> usize {
    sending.iter().map(|it| it.outgoing.bytes + COMMAND_BYTES).sum()
}

/// Publishes to one server.
pub(super) struct Lane<'a> {
    pub(super) server: Arc<Server>,
    redis: &'a Redis,
    link: &'a Link,
    pool: Pool,
    /// Held across pipelines: the pool checks a connection with a round trip each time it hands it out.
    connection: Option<Connection>,
    script: Script,
    pace: Pace,
    load: Load,
}

/// Batches that were taken from the inbox and are not settled; each channel's in order.
#[derive(Default)]
pub(super) struct Load {
    /// The pipeline that is, or may be, on its way.
    pub(super) sending: Vec<Sending>,
    /// Behind it.
    pub(super) queue: Queue,
}

impl Load {
    pub(super) fn is_empty(&self) -> bool {
        self.sending.is_empty() && self.queue.is_empty()
    }
}

/// A batch in a pipeline.
pub(super) struct Sending {
    pub(super) outgoing: Outgoing,
    envelope: Envelope,
    /// Tells a repetition from another message under the same key; `None` without a key.
    digest: Option<Digest>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(redis: &'a Redis, link: &'a Link, server: Arc<Server>) -> anyhow::Result<Self> {
        let manager = Manager::new_with_config(server.info.clone(), server::config())?;
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build()?;
        let script = Script::new(SCRIPT);
        Ok(Self { server, redis, link, pool, connection: None, script, pace: Pace::default(), load: Load::default() })
    }

    /// What it is to publish before anything else.
    pub(super) fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    /// Publishes its load and what is said on the channels it is told of, until there can be no more or it is `halted`:
    /// then its load is what is left.
    pub(super) async fn run(&mut self, mut said: UnboundedReceiver<Arc<Channel>>, halted: &CancellationToken) {
        let mut channels = Vec::new();
        loop {
            self.publish(&mut said, halted).await;
            tokio::select! {
                biased;
                () = halted.cancelled() => break,
                count = said.recv_many(&mut channels, usize::MAX) => if count == 0 { return },
            }
            self.load.queue.extend(Inbox::take_from(std::mem::take(&mut channels)));
        }
        self.take_all(&mut said);
    }

    fn take_all(&mut self, said: &mut UnboundedReceiver<Arc<Channel>>) {
        let channels = std::iter::from_fn(|| said.try_recv().ok()).collect();
        self.load.queue.extend(Inbox::take_from(channels));
    }

    async fn publish(&mut self, said: &mut UnboundedReceiver<Arc<Channel>>, halted: &CancellationToken) {
        while !self.load.is_empty() && !halted.is_cancelled() {
            let published_ns = now_ns();
            if self.load.sending.is_empty() {
                self.fill_pipeline(published_ns);
            }
            self.send(said, halted).await;
            // Channels that have something now need not wait until all others have nothing.
            self.take_all(said);
            let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
            self.link.metrics.publish_seconds.observe(seconds);
        }
    }

    /// Fills the pipeline with what is next, a batch of each channel in turn, but for channels of which something is left in it.
    fn fill_pipeline(&mut self, published_ns: u64) {
        let Load { sending, queue } = &mut self.load;
        let left: HashSet<ChannelName> = sending.iter().map(|it| it.outgoing.channel.name.clone()).collect();
        let mut sum = bytes(sending);
        while sum < self.pace.bytes()
            && let Some(mut outgoing) = queue.next(&left)
        {
            let batch = std::mem::take(&mut outgoing.batch);
            sum += batch.bytes() + COMMAND_BYTES;
            self.link.metrics.batch_messages.observe(outgoing.count as f64);
            let traceparent = outgoing.trace("redis");
            let digest = outgoing.key.as_ref().and_then(|_| batch.digest());
            let said = batch.into_messages().map(|(kind, payload, sender)| Said {
                binary: kind == Kind::Binary,
                payload,
                key: outgoing.key.clone().unwrap_or_default(),
                sender,
            });
            let envelope = Envelope {
                node: outgoing.channel.publisher,
                number: outgoing.number,
                published_ns,
                traceparent,
                messages: said.collect(),
                ..Envelope::default()
            };
            sending.push(Sending { outgoing, envelope, digest });
        }
    }

    /// Sends until Redis has it all or has refused it, or until it is halted: publishing again after a lost answer is
    /// harmless.
    async fn send(&mut self, said: &mut UnboundedReceiver<Arc<Channel>>, halted: &CancellationToken) {
        let mut backoff = Backoff::default();
        while !self.load.sending.is_empty() {
            let tried = tokio::select! {
                biased;
                () = halted.cancelled() => return,
                tried = self.try_send() => tried,
            };
            // A slot of a Cluster may be on its way for long.
            let mut some_moves = false;
            let error = match tried {
                Ok(answers) => match self.settle(answers, said).await {
                    Some(error) => {
                        some_moves = is_elsewhere(&error);
                        error.into()
                    }
                    None => return,
                },
                Err(error) => error,
            };
            if let Some(connection) = self.connection.take() {
                // Not back into the pool, which would wait for an answer from it once more before it makes another.
                drop(Connection::take(connection));
            }
            self.redis.topology.doubt();
            let pause = backoff.next();
            let server = self.server.name.as_str();
            warn!(server, retry_ms = pause.as_millis() as u64, "publishing to redis failed: {error:#}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = halted.cancelled() => return,
            }
            if some_moves {
                self.take_all(said);
                self.fill_pipeline(now_ns());
            }
        }
    }

    async fn try_send(&mut self) -> anyhow::Result<Vec<RedisResult<Value>>> {
        if self.redis.retention.messages == 0 {
            // While our own subscription is down, what we publish would never come back to our own clients.
            self.server.up.subscribe().wait_for(|up| *up).await?;
        }
        if self.connection.is_none() {
            let connection = self.connection.insert(self.pool.get().await?);
            self.pace = Pace::default();
            if self.redis.retention.messages > 0 {
                // Each time: Redis may have been restarted, or its scripts flushed.
                self.script.prepare_invoke().load_async(connection).await?;
            }
        }
        let connection = self.connection.as_mut().ok_or_else(|| anyhow!("no connection"))?;
        let sending = &self.load.sending;
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let mut previous = HashMap::new();
        for sending in sending {
            let before = previous.insert(sending.envelope.node, sending.outgoing.last());
            self.redis.add(&mut pipeline, self.script.get_hash(), sending, before);
        }
        let sent = Instant::now();
        let answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
        self.pace.took(bytes(sending), sent.elapsed());
        anyhow::ensure!(answers.len() == sending.len(), "{} answers to {} commands", answers.len(), sending.len());
        Ok(answers)
    }

    /// Takes in the answers; what is left is to be sent again, because of the error that is returned.
    async fn settle(
        &mut self,
        answers: Vec<RedisResult<Value>>,
        said: &mut UnboundedReceiver<Arc<Channel>>,
    ) -> Option<RedisError> {
        let (mut left, mut error) = (Vec::new(), None::<RedisError>);
        let mut lookups = LOOKUPS;
        for (mut this, answer) in std::mem::take(&mut self.load.sending).into_iter().zip(answers) {
            let refused = match answer {
                Ok(answer) => {
                    match self.last_id(&this, answer, &mut lookups).await {
                        Ok(last) => this.outgoing.held(last),
                        Err(why) => self.refuse_key(&mut this.outgoing, &why),
                    }
                    self.done(&this.outgoing);
                    continue;
                }
                Err(refused) => refused,
            };
            // Behind one that waits, they wait as long.
            let refused = match &error {
                Some(before) if refused.code() == Some("OUTOFORDER") && Cure::of(before) == Cure::Full => {
                    before.clone()
                }
                _ => refused,
            };
            let cure = Cure::of(&refused);
            if cure == Cure::Never || (cure == Cure::Full && this.outgoing.has_receipts()) {
                self.refuse(&mut this.outgoing, &refused, cure == Cure::Never);
            } else {
                left.push(this);
            }
            if cure != Cure::Never {
                error.get_or_insert(refused);
            }
        }
        self.load.sending = left;
        if let Some(error) = error.as_ref().filter(|error| Cure::of(error) == Cure::Full) {
            self.take_all(said);
            self.refuse_waiting(error);
        }
        if self.load.sending.is_empty() { None } else { error }
    }

    /// While some batches wait for Redis to take anything again, those behind them would wait, too.
    fn refuse_waiting(&mut self, error: &RedisError) {
        for mut outgoing in self.load.queue.take() {
            if outgoing.has_receipts() {
                self.refuse(&mut outgoing, error, false);
            } else {
                self.load.queue.push(outgoing);
            }
        }
    }

    /// Counted only by whoever asked: without a receipt nobody is told.
    fn refuse_key(&self, outgoing: &mut Outgoing, why: &Unpublished) {
        if !outgoing.has_receipts() {
            self.link.metrics.lost(LossCause::Refused, outgoing.count as u64);
        }
        outgoing.refuse(why);
    }

    fn refuse(&self, outgoing: &mut Outgoing, error: &RedisError, loudly: bool) {
        let detail = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        let why = Unpublished::Refused(format!("redis says {detail}"));
        if loudly {
            tracing::error!(channel = outgoing.channel.name.as_str(), messages = outgoing.count, "{why}");
        }
        if !outgoing.has_receipts() {
            self.link.metrics.lost(LossCause::Refused, outgoing.count as u64);
        }
        outgoing.channel.feed.confirm(outgoing.last());
        outgoing.refuse(&why);
        self.done(outgoing);
    }

    fn done(&self, outgoing: &Outgoing) {
        self.link.hub.inbox().settle(outgoing);
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
    ) -> Result<Option<MessageId>, Unpublished> {
        if self.redis.retention.messages == 0 {
            return Ok(None);
        }
        let Outgoing { channel, .. } = &sending.outgoing;
        let Ok((epoch, offset, outcome)) = from_redis_value::<(Vec<u8>, u64, u8)>(answer) else { return Ok(None) };
        let Ok(epoch) = epoch.try_into().map(u64::from_le_bytes) else { return Ok(None) };
        let id = MessageId { epoch, offset };
        if outcome != PUBLISHED {
            // It will not come back.
            channel.feed.confirm(sending.outgoing.last());
        } else if offset > 0 {
            channel.unheard.held(sending.outgoing.last(), id);
        }
        match outcome {
            KEY_TAKEN => Err(Unpublished::KeyTaken),
            _ if offset > 0 => Ok(Some(id)),
            _ => Ok(self.look_up(sending, lookups).await),
        }
    }

    /// The id of a batch that was published before by a pipeline whose answer was lost, if it was not the last of that.
    async fn look_up(&mut self, sending: &Sending, lookups: &mut usize) -> Option<MessageId> {
        let channel = &sending.outgoing.channel;
        if !sending.outgoing.has_receipts() {
            return None;
        }
        *lookups = lookups.checked_sub(1)?;
        let stream = self.redis.names.stream(&channel.name);
        let found = find(self.connection.as_mut()?, &stream, sending.envelope.node, sending.envelope.number).await;
        found.unwrap_or_else(|error| {
            warn!("cannot look up what a message is called: {error:#}");
            None
        })
    }
}

impl Redis {
    /// Adds the command that publishes a batch. `previous` is the number of the message before it, if that is in the same
    /// pipeline.
    fn add(&self, pipeline: &mut Pipeline, script: &str, sending: &Sending, previous: Option<u64>) {
        let Sending { outgoing: Outgoing { channel, key, count, .. }, envelope, .. } = sending;
        let Self { names, retention, .. } = self;
        let name = &channel.name;
        if retention.messages == 0 {
            pipeline.cmd(self.publish_command()).arg(names.pubsub(name)).arg(envelope.encode_payload());
            return;
        }
        let digits = |number: u64| format!("{number:020}");
        let (seen, held, lately) = self.known(channel);
        pipeline.cmd("EVALSHA").arg(script);
        pipeline.arg(3).arg(names.meta(name)).arg(names.stream(name)).arg(names.keys(name));
        pipeline.arg(names.pubsub(name)).arg(format!("{:016x}", envelope.node));
        pipeline.arg(digits(sending.outgoing.last())).arg(previous.map(digits).unwrap_or_default()).arg(*count);
        pipeline.arg(envelope.encode_to_vec()).arg(key.as_deref().unwrap_or_default()).arg(retention.messages);
        pipeline.arg(retention.ttl.as_millis() as u64).arg((retention.ttl + META_OUTLIVES).as_millis() as u64);
        pipeline.arg(&rand::random::<u64>().max(1).to_le_bytes()[..]).arg(now_ns() / 1_000_000_000);
        pipeline.arg(&seen.epoch.to_le_bytes()[..]).arg(seen.offset);
        pipeline.arg(self.publish_command()).arg(held.map(digits).unwrap_or_default()).arg(u8::from(lately));
        pipeline.arg(retention.history_bytes).arg(sending.digest.as_ref().map_or(&[][..], |digest| &digest[..]));
    }

    /// The newest message of a channel that this node knows of; its number if it is its own, held by Redis and not heard
    /// yet; and whether Redis must remember that, because it forgets nodes only after the life of a history.
    fn known(&self, channel: &Channel) -> (MessageId, Option<u64>, bool) {
        let (epoch, next_offset) = channel.feed.expects();
        match channel.unheard.newest() {
            // Not if it was in another history than what has been heard: everybody has been told of that.
            Some(held) if epoch == 0 || epoch == held.id.epoch => {
                (held.id, Some(held.number), held.since.elapsed() < self.retention.ttl / 2)
            }
            _ => (MessageId { epoch, offset: next_offset - 1 }, None, false),
        }
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.pool.close();
    }
}
