//! The connection that publishes to one server. It is held across pipelines, because a pool checks
//! a connection with a round trip each time it hands it out. It is made anew after each failure, and
//! whenever the subscription to its server was: the address may lead to another server by then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use deadpool_redis::{Connection, Pool, PoolError};
use redis::{RedisError, RedisResult, Script, Value};
use tracing::warn;

use super::super::Redis;
use super::super::history;
use super::super::server::Server;
use super::Ended;
use super::load::{Sending, bytes};
use super::pace::Pace;
use crate::message::MessageId;

/// A publisher holds one connection. The pool makes and checks it, and a second one is there while
/// a first is dying.
const CONNECTIONS: usize = 2;

/// What publishes a batch and keeps it: one call, so that history and delivery agree whatever
/// breaks in between.
const SCRIPT: &str = include_str!("../publish.lua");

/// Publishers that Redis forgets with one pipeline.
const FORGET_AT_ONCE: usize = 1000;

pub(super) struct PublishConnection<'a> {
    redis: &'a Redis,
    server: Arc<Server>,
    pool: Option<Pool>,
    open: Option<Connection>,
    /// The subscription that there was when it was made.
    subscription: u64,
    /// Tells its probes from others'.
    id: u64,
    script: Script,
    pub(super) pace: Pace,
}

impl<'a> PublishConnection<'a> {
    pub(super) fn new(redis: &'a Redis, server: Arc<Server>) -> Self {
        Self {
            redis,
            server,
            pool: None,
            open: None,
            subscription: 0,
            id: rand::random_range(1..u64::MAX),
            script: Script::new(SCRIPT),
            pace: Pace::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Sends a pipeline; returns an answer for each batch.
    ///
    /// # Errors
    /// If not all answers came. Redis may have published any of the batches.
    pub(super) async fn send(
        &mut self,
        sending: &mut [Sending],
    ) -> anyhow::Result<Vec<RedisResult<Value>>> {
        // 1. Connect. Where Redis answers to that with an error, it would have answered so to each
        // batch.
        if let Err(error) = self.open().await {
            let error = error.downcast::<RedisError>()?;
            return match error.code() {
                Some(_) => Ok(sending.iter().map(|_| Err(error.clone())).collect()),
                None => Err(error.into()),
            };
        }
        let connection = self.open.as_mut().context("no connection")?;
        // 2. Send. Each batch names the one before it in the pipeline, so that Redis takes none
        // whose predecessor it did not take.
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let mut previous = HashMap::new();
        for sending in sending.iter_mut() {
            sending.unanswered += 1;
            sending.update_skipped();
            let before = previous.insert(sending.envelope.publisher_id, sending.pending.last());
            let script = self.script.get_hash();
            self.redis
                .add_publish(&mut pipeline, script, sending, before);
        }
        let sent = Instant::now();
        let answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
        // 3. Learn from the time it took.
        self.pace.took(bytes(sending), sent.elapsed());
        ensure!(
            answers.len() == sending.len(),
            "{} answers to {} commands",
            answers.len(),
            sending.len()
        );
        for sending in sending {
            sending.unanswered -= 1;
        }
        Ok(answers)
    }

    /// The id of a batch's last message, from the history, if that still has it.
    pub(super) async fn find(&mut self, sending: &Sending) -> Option<MessageId> {
        let connection = self.open.as_mut()?;
        let stream = self.redis.names.stream(&sending.pending.channel.name);
        let (publisher_id, first) = (sending.envelope.publisher_id(), sending.envelope.first());
        history::find(connection, &stream, publisher_id, first)
            .await
            .unwrap_or_else(|error| {
                warn!("cannot look up the id of a message: {error:#}");
                None
            })
    }

    /// Has Redis forget publishers. If that fails, they are forgotten when they have been silent for
    /// long.
    pub(super) async fn forget(&mut self, ended: &[Ended]) {
        for some in ended.chunks(FORGET_AT_ONCE) {
            let Some(connection) = &mut self.open else {
                return;
            };
            let mut pipeline = redis::pipe();
            pipeline.ignore_errors();
            for Ended { meta, publisher_id } in some {
                pipeline
                    .cmd("HDEL")
                    .arg(meta)
                    .arg(format!("n:{publisher_id}"));
            }
            let answers = pipeline.query_async::<Vec<RedisResult<Value>>>(connection);
            if answers.await.is_err() {
                self.close();
            }
        }
    }

    /// Publishes a probe, if one is due: see [`super::super::round_trips`].
    pub(super) async fn probe(&mut self) {
        self.close_if_older();
        let Some(connection) = &mut self.open else {
            return;
        };
        let Some((probe, publish)) = self.server.round_trips.begin(self.id) else {
            return;
        };
        match publish.exec_async(connection).await {
            Ok(()) => self.server.round_trips.taken(probe),
            // The connection works all the same. If this is about the probe's channel, the
            // subscription's own probe fails, too.
            Err(error) if error.code().is_some() => {}
            Err(_) => self.close(),
        }
    }

    /// Ends the connection. The next one is another.
    pub(super) fn close(&mut self) {
        if let Some(connection) = self.open.take() {
            // Not back into the pool, which would wait for an answer from it once more before it
            // makes another.
            drop(Connection::take(connection));
        }
        self.server.round_trips.end(self.id);
    }

    /// The subscription may be one to another server by now.
    fn close_if_older(&mut self) {
        if self.subscription != self.server.subscription() {
            self.close();
        }
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        self.close_if_older();
        if self.open.is_none() {
            self.subscription = self.server.subscription();
            self.open = Some(self.connect().await?);
            self.pace = Pace::default();
        }
        Ok(())
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

impl Drop for PublishConnection<'_> {
    fn drop(&mut self) {
        self.pool.iter().for_each(Pool::close);
        self.server.round_trips.end(self.id);
    }
}
