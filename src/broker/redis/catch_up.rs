//! Catching up: reading from a channel's history what was said before this node heard it. The same at the first
//! subscription, after every reconnect and at each gap; [`super::relay`] holds back what arrives meanwhile.

use bytes::Bytes;
use futures_util::StreamExt;
use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use super::relay::{Relay, Release, Request};
use super::{Backoff, Redis};
use crate::channel::ChannelName;

/// Batches asked for at once.
const PAGE: usize = 64;

/// Channels that catch up at the same time: enough to fill a connection after a reconnect with many channels.
const AT_ONCE: usize = 64;

/// Answers requests until there can be no more.
pub(super) async fn run(redis: &Redis, relay: &Relay, mut requests: UnboundedReceiver<Request>) {
    let connection = Reader { redis, connection: Mutex::new(None) };
    futures_util::stream::poll_fn(|context| requests.poll_recv(context))
        .for_each_concurrent(AT_ONCE, |request| catch_up(&connection, relay, request))
        .await;
}

async fn catch_up(reader: &Reader<'_>, relay: &Relay, Request { channel, round }: Request) {
    let mut backoff = Backoff::default();
    // What a channel is filled with when its first client comes was not missed by anybody.
    let first = relay.is_first(&channel.name);
    // How far it had come when what was held back did not fit. A batch is in the history before it is delivered, so what
    // is still missing after reading once more is gone for good.
    let mut stuck_at = None;
    while relay.is_current(&channel.name, round) {
        let (epoch, next_offset) = channel.feed.expects();
        let page = match reader.read(&channel.name, if epoch == 0 { 0 } else { next_offset }).await {
            Ok(page) => page,
            Err(error) => {
                warn!(channel = channel.name.as_str(), "cannot read history, trying again: {error:#}");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        };
        if epoch != 0 && page.epoch != 0 && epoch != page.epoch {
            // Another history: from its beginning, as far as it is kept.
            relay.lose(&channel, page.epoch, 1);
            continue;
        }
        let more = page.payloads.len() == PAGE;
        for payload in page.payloads {
            let messages = relay.recover(&channel, payload, !first);
            if !first {
                relay.recovered(messages);
            }
            channel.feed.settled().await;
        }
        if more {
            continue;
        }
        // What the history no longer has although it was there.
        if page.epoch != 0 && page.next_offset > channel.feed.expects().1 {
            relay.lose(&channel, page.epoch, page.next_offset);
        }
        let reached = channel.feed.expects();
        if relay.release(&channel, round, stuck_at == Some(reached)) != Release::Again {
            return;
        }
        stuck_at = Some(channel.feed.expects());
    }
}

/// Reads histories over a connection that is made when it is needed.
struct Reader<'a> {
    redis: &'a Redis,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// Some of a history.
struct Page {
    /// 0 if there is no history.
    epoch: u64,
    /// The offset of the message that comes next.
    next_offset: u64,
    /// Oldest first.
    payloads: Vec<Bytes>,
}

impl Reader<'_> {
    /// The oldest batches that reach up to `from` or beyond.
    async fn read(&self, name: &ChannelName, from: u64) -> anyhow::Result<Page> {
        let mut connection = self.connection().await?;
        let mut pipeline = redis::pipe();
        // Together, so that they tell of the same moment.
        pipeline.atomic();
        pipeline.cmd("HMGET").arg(self.redis.names.meta(name)).arg("epoch").arg("offset");
        pipeline.cmd("XRANGE").arg(self.redis.names.stream(name)).arg(from).arg("+").arg("COUNT").arg(PAGE);
        let answer = pipeline.query_async::<(MetaValues, Vec<Entry>)>(&mut connection).await;
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        let ((epoch, offset), entries) = answer?;
        let epoch = epoch.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let payloads = entries.into_iter().map(|(_, (_, payload))| payload.into()).collect();
        Ok(Page { epoch, next_offset: offset.unwrap_or(0) + 1, payloads })
    }

    async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let client = Client::open(self.redis.info.clone())?;
        let made = client.get_multiplexed_async_connection_with_config(&self.redis.connection_config()).await?;
        Ok(connection.insert(made).clone())
    }
}

/// The fields of the meta hash, if there is one.
type MetaValues = (Option<Vec<u8>>, Option<u64>);

/// An entry of the stream: its id, and its one field with its value.
type Entry = (String, (String, Vec<u8>));
