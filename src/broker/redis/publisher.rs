//! A publisher: publishing to one server. While one pipeline is on its way the inbox fills, and all of
//! that is the next pipeline, one script call a channel and batch: at low load nothing waits, under
//! load one command carries many messages. It owns what becomes of a batch that Redis does not
//! take: sent again, refused, or handed back because its channel has moved.

mod command;
mod failure;
mod pace;
mod queue;
mod answers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use deadpool_redis::{Connection, Pool, PoolError};
use redis::{RedisError, RedisResult, Script, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::pace::Pace;
pub(super) use self::queue::Queue;
use super::super::Link;
use super::super::envelope::{Envelope, EnvelopeMessage};
use super::server::Server;
use super::subscriber::is_elsewhere;
use super::{Backoff, Redis, round_trips};
use crate::channel::ChannelName;
use crate::hub::{Channel, Inbox, PendingBatch};
use crate::message::{Digest, Kind, now_ns};

/// A publisher holds one connection; the pool makes and checks it, and a second one is there while a
/// first is dying.
const CONNECTIONS: usize = 2;

/// What publishes a batch and keeps it: one call, so that history and delivery agree whatever
/// breaks in between.
const SCRIPT: &str = include_str!("publish.lua");

/// What a command counts beside its payload: it takes Redis about as long as so many bytes.
const COMMAND_BYTES: usize = 256;

/// Publishes to one server.
pub(super) struct Publisher<'a> {
    pub(super) server: Arc<Server>,
    redis: &'a Redis,
    link: &'a Link,
    pool: Option<Pool>,
    /// Held across pipelines: the pool checks a connection with a round trip each time it hands it
    /// out.
    connection: Option<Connection>,
    /// The subscription that there was when it was made.
    subscription: u64,
    /// Tells its probes from others'.
    id: u64,
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
    pub(super) pending: PendingBatch,
    envelope: Envelope,
    /// Tells a repetition from another message under the same key; `None` without a key.
    digest: Option<Digest>,
    /// Times it was sent without an answer: then it may be published.
    unanswered: u32,
    /// When the server refused it first.
    refused_at: Option<Instant>,
}

/// Bytes of a pipeline.
fn bytes(sending: &[Sending]) -> usize {
    sending
        .iter()
        .map(|it| it.pending.bytes + COMMAND_BYTES)
        .sum()
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        redis: &'a Redis,
        link: &'a Link,
        server: Arc<Server>,
    ) -> anyhow::Result<Self> {
        let script = Script::new(SCRIPT);
        let (pace, load, id) = (
            Pace::default(),
            Load::default(),
            rand::random_range(1..u64::MAX),
        );
        Ok(Self {
            server,
            redis,
            link,
            pool: None,
            connection: None,
            subscription: 0,
            id,
            script,
            pace,
            load,
        })
    }

    /// What it is to publish before anything else.
    pub(super) fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    /// Publishes its load and what is said on the channels it is told of, until there can be no
    /// more or it is `halted`: then its load is what is left.
    pub(super) async fn run(
        &mut self,
        mut said: UnboundedReceiver<Arc<Channel>>,
        halted: &CancellationToken,
    ) {
        let mut channels = Vec::new();
        loop {
            self.publish(&mut said, halted).await;
            tokio::select! {
                biased;
                () = halted.cancelled() => break,
                count = said.recv_many(&mut channels, usize::MAX) => if count == 0 { return },
                () = tokio::time::sleep(round_trips::INTERVAL), if self.connection.is_some() => self.probe(halted).await,
            }
            self.load
                .queue
                .extend(Inbox::take_from(std::mem::take(&mut channels)));
        }
        self.take_all(&mut said);
    }

    fn take_all(&mut self, said: &mut UnboundedReceiver<Arc<Channel>>) {
        let channels = std::iter::from_fn(|| said.try_recv().ok()).collect();
        self.load.queue.extend(Inbox::take_from(channels));
    }

    async fn publish(
        &mut self,
        said: &mut UnboundedReceiver<Arc<Channel>>,
        halted: &CancellationToken,
    ) {
        while !self.load.is_empty() && !halted.is_cancelled() {
            let published_ns = now_ns();
            if self.load.sending.is_empty() {
                self.fill_pipeline(published_ns);
            }
            self.send(said, halted).await;
            self.probe(halted).await;
            // Channels that have something now need not wait until all others have nothing.
            self.take_all(said);
            let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
            self.link.metrics.publish_seconds.observe(seconds);
        }
    }

    /// Fills the pipeline with what is next, a batch of each channel in turn, but for channels of
    /// which something is left in it.
    fn fill_pipeline(&mut self, published_ns: u64) {
        let Load { sending, queue } = &mut self.load;
        let left: HashSet<ChannelName> = sending
            .iter()
            .map(|it| it.pending.channel.name.clone())
            .collect();
        let mut sum = bytes(sending);
        while sum < self.pace.bytes()
            && let Some(mut pending) = queue.next(&left)
        {
            let batch = std::mem::take(&mut pending.batch);
            sum += batch.bytes() + COMMAND_BYTES;
            self.link
                .metrics
                .batch_messages
                .observe(pending.count as f64);
            let traceparent = pending.trace("redis");
            let digest = pending.key.as_ref().and_then(|_| batch.digest());
            let said = batch
                .into_messages()
                .map(|(kind, payload, sender)| EnvelopeMessage {
                    binary: kind == Kind::Binary,
                    payload,
                    key: pending.key.clone().unwrap_or_default(),
                    sender,
                });
            let envelope = Envelope {
                publisher_id: pending.channel.publisher_id.0,
                sequence: pending.first.0,
                published_ns,
                traceparent,
                messages: said.collect(),
                ..Envelope::default()
            };
            sending.push(Sending {
                pending,
                envelope,
                digest,
                unanswered: 0,
                refused_at: None,
            });
        }
    }

    /// Sends until Redis has it all or has refused it, or until it is halted: publishing again
    /// after a lost answer is harmless.
    async fn send(
        &mut self,
        said: &mut UnboundedReceiver<Arc<Channel>>,
        halted: &CancellationToken,
    ) {
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
            self.disconnect();
            self.redis.topology.doubt();
            let pause = backoff.next();
            let server = self.server.name.as_str();
            warn!(
                server,
                retry_ms = pause.as_millis() as u64,
                "publishing to redis failed: {error:#}"
            );
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

    /// Ends the connection. The next one is another.
    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Not back into the pool, which would wait for an answer from it once more before it
            // makes another.
            drop(Connection::take(connection));
        }
        self.server.round_trips.end(self.id);
    }

    /// Publishes a probe, if one is due: see [`round_trips`].
    async fn probe(&mut self, halted: &CancellationToken) {
        self.leave_older_connection();
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some((probe, publish)) = self.server.round_trips.begin(self.id) else {
            return;
        };
        let published = tokio::select! {
            () = halted.cancelled() => return,
            published = publish.exec_async(connection) => published,
        };
        match published {
            Ok(()) => self.server.round_trips.taken(probe),
            // It works all the same; if it is about the probe's channel, the subscription's own
            // probe tells.
            Err(error) if error.code().is_some() => {}
            Err(_) => self.disconnect(),
        }
    }

    /// The subscription may be one to another server by now.
    fn leave_older_connection(&mut self) {
        if self.subscription != self.server.subscription() {
            self.disconnect();
        }
    }

    async fn try_send(&mut self) -> anyhow::Result<Vec<RedisResult<Value>>> {
        if self.redis.retention.messages == 0 {
            // While our own subscription is down, what we publish would never come back to our own
            // clients.
            self.server.up.subscribe().wait_for(|up| *up).await?;
        }
        self.leave_older_connection();
        if self.connection.is_none() {
            self.subscription = self.server.subscription();
            match self.connect().await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    self.pace = Pace::default();
                }
                Err(error) => match error.downcast::<RedisError>() {
                    // As it would have answered to each batch.
                    Ok(error) if error.code().is_some() => {
                        return Ok(self
                            .load
                            .sending
                            .iter()
                            .map(|_| Err(error.clone()))
                            .collect());
                    }
                    Ok(error) => return Err(error.into()),
                    Err(error) => return Err(error),
                },
            }
        }
        let connection = self
            .connection
            .as_mut()
            .ok_or_else(|| anyhow!("no connection"))?;
        let sending = &mut self.load.sending;
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let mut previous = HashMap::new();
        for sending in sending.iter_mut() {
            sending.unanswered += 1;
            let before = previous.insert(sending.envelope.publisher_id(), sending.pending.last());
            self.redis
                .add_publish(&mut pipeline, self.script.get_hash(), sending, before);
        }
        let sent = Instant::now();
        let answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
        self.pace.took(bytes(sending), sent.elapsed());
        anyhow::ensure!(
            answers.len() == sending.len(),
            "{} answers to {} commands",
            answers.len(),
            sending.len()
        );
        sending
            .iter_mut()
            .for_each(|sending| sending.unanswered -= 1);
        Ok(answers)
    }

    /// A connection that knows the script.
    async fn connect(&mut self) -> anyhow::Result<Connection> {
        // A new pool, because the files for TLS may be others by now.
        let pool = self.pool.insert(self.server.pool(CONNECTIONS)?);
        let mut connection = pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error.into(),
            other => anyhow::Error::from(other),
        })?;
        if self.redis.retention.messages > 0 {
            // Each time: Redis may have been restarted, or its scripts flushed.
            self.script
                .prepare_invoke()
                .load_async(&mut connection)
                .await?;
        }
        Ok(connection)
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.pool.iter().for_each(Pool::close);
        self.server.round_trips.end(self.id);
    }
}
