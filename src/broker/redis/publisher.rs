//! A publisher: publishing to one server. While one pipeline is on its way the inbox fills, and all
//! of that is the next pipeline, one script call a channel and batch: at low load nothing waits,
//! under load one command carries many messages. It owns what becomes of a batch that Redis does
//! not take: sent again, refused, or handed back because its channel has moved.

mod answers;
mod command;
mod connection;
mod failure;
mod load;
mod pace;
mod queue;

use std::sync::Arc;

use redis::{RedisError, RedisResult, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::connection::PublishConnection;
pub(super) use self::load::Load;
use self::load::Sending;
use super::super::Link;
use super::receivers::Receivers;
use super::server::Server;
use super::topology::is_elsewhere;
use super::{Backoff, Redis, round_trips};
use crate::hub::{Channel, Inbox};
use crate::message::{PublisherId, now_ns};

/// Channels that have ended and are not forgotten by Redis yet. Those beyond are left to its own
/// forgetting.
const MOST_ENDED: usize = 10_000;

/// Something that a publisher has to do for a channel.
pub(super) enum Task {
    /// Something was published on it.
    Publish(Arc<Channel>),
    /// It has no clients any more, and nothing will be published on it.
    Forget(Arc<Channel>),
}

/// The way to a publisher. It ends once all of these are dropped and everything is done.
pub(super) type TaskSender = UnboundedSender<Task>;

/// Tasks of one publisher.
pub(super) type Work = UnboundedReceiver<Task>;

/// A publisher that Redis can forget: its last batch is settled.
struct Ended {
    meta: String,
    publisher_id: PublisherId,
}

/// Publishes to one server.
pub(super) struct Publisher<'a> {
    pub(super) server: Arc<Server>,
    redis: &'a Redis,
    link: &'a Link,
    receivers: &'a Receivers,
    connection: PublishConnection<'a>,
    load: Load,
    ended: Vec<Ended>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        redis: &'a Redis,
        link: &'a Link,
        receivers: &'a Receivers,
        server: Arc<Server>,
    ) -> Self {
        Self {
            connection: PublishConnection::new(redis, server.clone()),
            server,
            redis,
            link,
            receivers,
            load: Load::default(),
            ended: Vec::new(),
        }
    }

    /// What it publishes before anything else.
    pub(super) fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    /// Publishes its load and what its tasks bring, until there can be no more or it is `halted`:
    /// then its load is what is left.
    pub(super) async fn run(&mut self, mut work: Work, halted: &CancellationToken) {
        let mut tasks = Vec::new();
        loop {
            // 1. Publish what there is. Nothing is left then, unless this is halted.
            self.publish(&mut work, halted).await;
            self.forget_ended(halted).await;
            // 2. Wait for more. An idle connection proves every second that it still works.
            tokio::select! {
                biased;
                () = halted.cancelled() => break,
                count = work.recv_many(&mut tasks, usize::MAX) => if count == 0 { return },
                () = sleep(round_trips::INTERVAL), if self.connection.is_open() => self.probe(halted).await,
            }
            self.take_on(std::mem::take(&mut tasks));
        }
        self.take_in(&mut work);
    }

    /// Takes on all tasks that wait.
    fn take_in(&mut self, work: &mut Work) {
        let tasks = std::iter::from_fn(|| work.try_recv().ok()).collect();
        self.take_on(tasks);
    }

    fn take_on(&mut self, tasks: Vec<Task>) {
        let mut channels = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task {
                Task::Publish(channel) => channels.push(channel),
                Task::Forget(channel) => self.end(&channel),
            }
        }
        self.load.queue.extend(Inbox::take_from(channels));
    }

    fn end(&mut self, channel: &Channel) {
        let is_known = self.redis.retention.messages > 0 && channel.has_published();
        if is_known && self.ended.len() < MOST_ENDED {
            self.ended.push(Ended {
                meta: self.redis.names.meta(&channel.name),
                publisher_id: channel.publisher_id,
            });
        }
    }

    /// Has Redis forget publishers that have ended, so that a channel's metadata does not grow with
    /// each node that was ever there. Only while nothing is left to publish: a batch of theirs could
    /// otherwise be sent again afterwards, and Redis would not know it.
    async fn forget_ended(&mut self, halted: &CancellationToken) {
        if !self.load.is_empty() || self.ended.is_empty() {
            return;
        }
        let ended = std::mem::take(&mut self.ended);
        tokio::select! {
            () = halted.cancelled() => {}
            () = self.connection.forget(&ended) => {}
        }
    }

    /// Publishes until nothing is left.
    async fn publish(&mut self, work: &mut Work, halted: &CancellationToken) {
        while !self.load.is_empty() && !halted.is_cancelled() {
            let published_ns = now_ns();
            // A pipeline that was halted is sent again as it is: it may be published.
            if self.load.sending.is_empty() {
                self.fill_pipeline(published_ns);
            }
            self.send(work, halted).await;
            self.probe(halted).await;
            // Channels that have something now need not wait until all others have nothing.
            self.take_in(work);
            let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
            self.link.metrics.publish_seconds.observe(seconds);
        }
    }

    fn fill_pipeline(&mut self, published_ns: u64) {
        let most = self.connection.pace.bytes();
        let metrics = &self.link.metrics;
        self.load.fill_pipeline(most, published_ns, |messages| {
            metrics.batch_messages.observe(messages as f64);
        });
    }

    /// Sends the pipeline until Redis has taken or refused all of it, or until it is halted. To
    /// publish again after a lost answer is harmless.
    async fn send(&mut self, work: &mut Work, halted: &CancellationToken) {
        let mut backoff = Backoff::default();
        while !self.load.sending.is_empty() {
            // 1. Try.
            let tried = tokio::select! {
                biased;
                () = halted.cancelled() => return,
                tried = self.try_send() => tried,
            };
            let settled = match tried {
                Ok(answers) => self.settle(answers, work).await.map(anyhow::Error::from),
                Err(error) => Some(error),
            };
            let Some(error) = settled else {
                return;
            };
            // 2. Pause. Another server may have the channels by now.
            self.connection.close();
            self.redis.topology.doubt();
            let pause = backoff.next();
            warn!(
                server = self.server.name.as_str(),
                retry_ms = pause.as_millis() as u64,
                "publishing to redis failed: {error:#}"
            );
            tokio::select! {
                () = sleep(pause) => {}
                () = halted.cancelled() => return,
            }
            // 3. A slot of a Cluster may be on its way for long: channels in others go on.
            if error.downcast_ref::<RedisError>().is_some_and(is_elsewhere) {
                self.take_in(work);
                self.fill_pipeline(now_ns());
            }
        }
    }

    async fn try_send(&mut self) -> anyhow::Result<Vec<RedisResult<Value>>> {
        if self.redis.retention.messages == 0 {
            // While our own subscription is down, what we publish would never come back to our own
            // clients.
            self.server.up.subscribe().wait_for(|up| *up).await?;
        }
        self.connection.send(&mut self.load.sending).await
    }

    async fn probe(&mut self, halted: &CancellationToken) {
        tokio::select! {
            () = halted.cancelled() => {}
            () = self.connection.probe() => {}
        }
    }
}
