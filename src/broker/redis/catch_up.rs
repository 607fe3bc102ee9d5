//! Catching up: reading from a channel's history what was said before this node heard it. The same at the first
//! subscription, after every reconnect and at each gap; [`super::relay`] holds back what arrives meanwhile. And reading
//! there for clients what is older than the feed.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use redis::RedisResult;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use super::super::envelope::Payload;
use super::history::{self, Excerpt};
use super::relay::{Relay, Release, Request};
use super::server::Server;
use super::{Backoff, Redis};
use crate::channel::ChannelName;
use crate::hub::{Page, Reading};
use crate::message::Batch;

/// Batches asked for at once.
const PAGE: usize = 64;

/// Batches asked for at once for a client: with their size, a MiB, it bounds what a slow one makes a node hold.
const CLIENT_PAGE: usize = 4;

/// Batches looked at that were heard before: after a failover they may be others than those that were.
const LOOK_BACK: usize = 8;

/// Reads at the same time: enough to fill a connection after a reconnect with many channels, and more than clients have.
const AT_ONCE: usize = 64;

/// Answers requests until there can be no more of the node's own.
pub(super) async fn run(
    redis: &Redis,
    relay: &Relay,
    mut requests: UnboundedReceiver<Request>,
    mut readings: UnboundedReceiver<Reading>,
) {
    let reader = Reader { redis };
    let own = stream::poll_fn(|context| requests.poll_recv(context)).map(Task::CatchUp);
    let clients = stream::poll_fn(|context| readings.poll_recv(context)).map(Task::Read);
    stream::select(own, clients)
        .for_each_concurrent(AT_ONCE, |task| async {
            match task {
                Task::CatchUp(request) => catch_up(&reader, relay, request).await,
                Task::Read(reading) => read_for_client(&reader, reading).await,
            }
        })
        .await;
}

enum Task {
    CatchUp(Request),
    Read(Reading),
}

/// Reads until there is a page or nobody waits for it any more.
async fn read_for_client(reader: &Reader<'_>, Reading { channel, from, mut answer }: Reading) {
    let mut backoff = Backoff::default();
    loop {
        let error = tokio::select! {
            read = reader.read(&channel.name, from, CLIENT_PAGE) => match read {
                Ok(page) => {
                    let batches = page.payloads.into_iter().filter_map(decode).collect();
                    // Who asked may have left just now.
                    let _ = answer.send(Page { epoch: page.epoch, batches });
                    return;
                }
                Err(error) => error,
            },
            () = answer.closed() => return,
        };
        warn!(channel = channel.name.as_str(), "cannot read history, trying again: {error:#}");
        tokio::time::sleep(backoff.next()).await;
    }
}

fn decode(payload: Bytes) -> Option<Arc<Batch>> {
    let Payload::Batch(envelope) = Payload::decode(payload) else { return None };
    let (epoch, offset) = (envelope.epoch, envelope.offset);
    let published_ns = envelope.published_ns;
    let mut batch = envelope.into_batch(false).build(published_ns);
    (batch.epoch, batch.offset, batch.span) = (epoch, offset, batch.len() as u64);
    Some(Arc::new(batch))
}

async fn catch_up(reader: &Reader<'_>, relay: &Relay, request: Request) {
    let channel = &request.channel;
    let mut backoff = Backoff::default();
    // What a channel is filled with when its first client comes was not missed by anybody.
    let first = relay.is_first(&channel.name);
    // How far it had come when what was held back did not fit. A batch is in the history before it is delivered, so what
    // is still missing after reading once more is gone for good.
    let mut stuck_at = None;
    let mut looked_back = false;
    while relay.is_current(&request) {
        let (epoch, next_offset) = channel.feed.expects();
        if epoch != 0 && !looked_back {
            match reader.read_back(&channel.name, next_offset - 1).await {
                Ok(batches) => batches.into_iter().for_each(|batch| relay.compare(&request, batch)),
                Err(error) => {
                    warn!(channel = channel.name.as_str(), "cannot read history, trying again: {error:#}");
                    tokio::time::sleep(backoff.next()).await;
                    continue;
                }
            }
            looked_back = true;
        }
        if relay.is_rewound(&request) {
            warn!(channel = channel.name.as_str(), "redis has lost the end of a history and given offsets out again");
            if let Err(error) = reader.abandon(&channel.name, epoch).await {
                warn!(channel = channel.name.as_str(), "cannot begin a new history, trying again: {error:#}");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
            relay.abandoned(&request);
        }
        // With the newest that was heard, which must still be what it was.
        let from = if epoch == 0 { 0 } else { next_offset - 1 };
        let page = match reader.read(&channel.name, from, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                warn!(channel = channel.name.as_str(), "cannot read history, trying again: {error:#}");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        };
        if epoch != 0 && page.epoch != 0 && epoch != page.epoch {
            // Another history: from its beginning, as far as it is kept.
            relay.lose(&request, page.epoch, 1);
            continue;
        }
        let more = page.payloads.len() == PAGE;
        for payload in page.payloads {
            let messages = relay.recover(&request, payload, !first);
            if !first {
                relay.recovered(messages);
            }
            channel.feed.settled().await;
        }
        if more || relay.is_rewound(&request) {
            continue;
        }
        // What the history no longer has although it was there.
        if page.epoch != 0 && page.next_offset > channel.feed.expects().1 {
            relay.lose(&request, page.epoch, page.next_offset);
        }
        let reached = channel.feed.expects();
        if relay.release(&request, stuck_at == Some(reached)) != Release::Again {
            return;
        }
        stuck_at = Some(channel.feed.expects());
    }
}

/// Reads histories, each on the server that has it.
struct Reader<'a> {
    redis: &'a Redis,
}

impl Reader<'_> {
    /// The oldest batches that reach up to `from` or beyond.
    async fn read(&self, name: &ChannelName, from: u64, count: usize) -> anyhow::Result<Excerpt> {
        let server = self.server(name)?;
        let mut connection = server.connection().await?;
        let excerpt = history::read(&mut connection, &self.redis.names, name, from, count).await;
        self.checked(&server, excerpt).await
    }

    /// The newest batches up to `upto`.
    async fn read_back(&self, name: &ChannelName, upto: u64) -> anyhow::Result<Vec<Bytes>> {
        let server = self.server(name)?;
        let mut connection = server.connection().await?;
        let batches = history::read_back(&mut connection, &self.redis.names, name, upto, LOOK_BACK).await;
        self.checked(&server, batches).await
    }

    /// Begins another history than this.
    async fn abandon(&self, name: &ChannelName, epoch: u64) -> anyhow::Result<()> {
        let server = self.server(name)?;
        let mut connection = server.connection().await?;
        let abandoned = history::abandon(&mut connection, &self.redis.names, name, epoch).await;
        self.checked(&server, abandoned).await
    }

    fn server(&self, name: &ChannelName) -> anyhow::Result<Arc<Server>> {
        self.redis.topology.map().owner(name).cloned().context("no server is known that has this channel")
    }

    async fn checked<T>(&self, server: &Server, result: RedisResult<T>) -> anyhow::Result<T> {
        if result.is_err() {
            server.forget_connection().await;
            self.redis.topology.doubt();
        }
        Ok(result?)
    }
}
