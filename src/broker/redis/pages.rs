//! Reads histories page by page, each from the server that has it. It owns how large a page is, and
//! how many bytes are on their way to this node at the same time: live messages and probes share the
//! same network, and must not wait long.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use super::Redis;
use super::history::{self, EntryId, Excerpt, Newest};
use super::server::Server;
use super::warnings::Trouble;
use crate::channel::ChannelName;
use crate::feed::Feed;

/// Bytes that a page should have, if batches are as large as those of the page before.
const PAGE_BYTES: usize = 512 * 1024;

/// Batches of a page at most.
const PAGE_BATCHES: usize = 256;

/// Batches of the first page, when nothing is known of their size.
const FIRST_BATCHES: usize = 4;

/// Pages on their way at the same time: one is sent while another is asked for.
const PAGES_AT_ONCE: usize = 2;

/// Bytes of a permit.
const PERMIT_BYTES: usize = 1024;

/// Batches compared with those that were received: after a failover they may be others.
const LOOK_BACK: usize = 8;

/// Reads histories.
pub(super) struct Reader<'a> {
    redis: &'a Redis,
    /// A permit a KiB. Fair, so that a channel with many pages delays another by the pages on their
    /// way, and no more.
    permits: Semaphore,
}

/// Whether a request failed because of the connection. An error that Redis answered shows that the
/// connection works.
fn is_broken<T>(result: &RedisResult<T>) -> bool {
    result.as_ref().is_err_and(|error| error.code().is_none())
}

/// How many batches of one history make a page.
pub(super) struct PageSize {
    /// Bytes of a batch, from those seen.
    mean: usize,
}

/// Reading one page.
struct Turn<'a> {
    server: Arc<Server>,
    connection: MultiplexedConnection,
    _permits: SemaphorePermit<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(redis: &'a Redis) -> Self {
        Self {
            redis,
            permits: Semaphore::new(PAGES_AT_ONCE * PAGE_BYTES / PERMIT_BYTES),
        }
    }

    /// The newest message of a history. Does not wait for pages.
    pub(super) async fn newest(&self, name: &ChannelName) -> anyhow::Result<Newest> {
        let server = self.server(name)?;
        let newest =
            history::newest(&mut server.connection().await?, &self.redis.names, name).await;
        if is_broken(&newest) {
            server.forget_connection().await;
        }
        self.checked(newest)
    }

    /// The oldest batches from this place on.
    pub(super) async fn read(
        &self,
        name: &ChannelName,
        from: EntryId,
        size: &mut PageSize,
    ) -> anyhow::Result<Excerpt> {
        let count = size.batches();
        // Permits by the size that is expected: live messages wait behind that many bytes at most.
        let mut turn = self.turn(name, size.permits(count)).await?;
        let page = history::read(&mut turn.connection, &self.redis.names, name, from, count).await;
        let page = self.end(turn, page).await?;
        size.saw(&page.payloads);
        Ok(page)
    }

    /// The newest batches before the offset `before`, newest first, no more than a page and `most`;
    /// and whether there are no more before them.
    pub(super) async fn read_back(
        &self,
        name: &ChannelName,
        before: u64,
        most: u64,
        size: &mut PageSize,
    ) -> anyhow::Result<(Vec<Bytes>, bool)> {
        let count = size
            .batches()
            .min(usize::try_from(most).unwrap_or(usize::MAX))
            .max(1);
        let mut turn = self.turn(name, size.permits(count)).await?;
        let upto = before.saturating_sub(1);
        let page =
            history::read_back(&mut turn.connection, &self.redis.names, name, upto, count).await;
        let payloads = self.end(turn, page).await?;
        size.saw(&payloads);
        let is_all = payloads.len() < count;
        Ok((payloads, is_all))
    }

    /// The newest batches before `next_offset`, as many as are compared with those that were
    /// received.
    pub(super) async fn look_back(
        &self,
        name: &ChannelName,
        next_offset: u64,
        size: &mut PageSize,
    ) -> anyhow::Result<Vec<Bytes>> {
        Ok(self
            .read_back(name, next_offset, LOOK_BACK as u64, size)
            .await?
            .0)
    }

    /// Has Redis end this history and begin another one.
    pub(super) async fn abandon(&self, name: &ChannelName, epoch: u64) -> anyhow::Result<()> {
        let server = self.server(name)?;
        let abandoned = history::abandon(
            &mut server.connection().await?,
            &self.redis.names,
            name,
            epoch,
        )
        .await;
        if is_broken(&abandoned) {
            server.forget_connection().await;
        }
        self.checked(abandoned)
    }

    /// Waits until a page may be read.
    async fn turn(&self, name: &ChannelName, permits: u32) -> anyhow::Result<Turn<'_>> {
        let server = self.server(name)?;
        // Before the permits: a server that does not answer must not keep others' pages waiting.
        let connection = server.page_connection().await?;
        let permits = self.permits.acquire_many(permits).await?;
        Ok(Turn {
            connection,
            server,
            _permits: permits,
        })
    }

    /// A page has been read.
    async fn end<T>(&self, turn: Turn<'_>, page: RedisResult<T>) -> anyhow::Result<T> {
        if is_broken(&page) {
            turn.server.forget_page_connection().await;
        }
        self.checked(page)
    }

    fn server(&self, name: &ChannelName) -> anyhow::Result<Arc<Server>> {
        self.redis
            .topology
            .map()
            .owner(name)
            .cloned()
            .context("no server is known that has this channel")
    }

    /// Warns that a history cannot be read, and why, but not too often.
    pub(super) fn warn_unreadable(&self, name: &ChannelName, error: &anyhow::Error) {
        if self.redis.warnings.allows(Trouble::Reading, name) {
            warn!(
                channel = name.as_str(),
                "cannot read history, trying again: {error:#}"
            );
        }
    }

    fn checked<T>(&self, result: RedisResult<T>) -> anyhow::Result<T> {
        if result.is_err() {
            self.redis.topology.doubt();
        }
        Ok(result?)
    }
}

impl PageSize {
    /// A page of a history of which nothing is known.
    pub(super) fn unknown() -> Self {
        Self {
            mean: PAGE_BYTES / FIRST_BATCHES,
        }
    }

    /// A page of what a feed has missed: its batches are probably like those it has. Most feeds have
    /// missed nothing, and a page of few small batches takes few permits.
    pub(super) fn like(feed: &Feed) -> Self {
        feed.mean_batch()
            .map_or_else(Self::unknown, |mean| Self { mean: mean.max(1) })
    }

    fn batches(&self) -> usize {
        (PAGE_BYTES / self.mean).clamp(1, PAGE_BATCHES)
    }

    fn permits(&self, batches: usize) -> u32 {
        (batches * self.mean)
            .div_ceil(PERMIT_BYTES)
            .clamp(1, PAGE_BYTES / PERMIT_BYTES) as u32
    }

    /// Learns from a page. The next one has four times as many batches at most: a few small ones
    /// prove little.
    fn saw(&mut self, payloads: &[Bytes]) {
        let bytes: usize = payloads.iter().map(Bytes::len).sum();
        if let Some(mean) = bytes.checked_div(payloads.len()) {
            self.mean = mean.max(self.mean / 4).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(batches: usize, bytes: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; bytes]); batches]
    }

    #[test]
    fn pages_adapt_to_the_size_of_what_they_hold() {
        let mut size = PageSize::unknown();
        assert_eq!((size.batches(), size.permits(size.batches())), (4, 512));
        size.saw(&pages(4, 100));
        assert_eq!(size.batches(), 16);
        for _ in 0..10 {
            size.saw(&pages(16, 100));
        }
        assert_eq!(
            (size.batches(), size.permits(256), size.permits(8)),
            (256, 25, 1)
        );
        size.saw(&pages(1, 300_000));
        assert_eq!((size.batches(), size.permits(1)), (1, 293));
        size.saw(&pages(1, 16 << 20));
        assert_eq!(
            (size.batches(), size.permits(1)),
            (1, 512),
            "one is read, whatever it has"
        );
        size.saw(&[]);
        assert_eq!(size.batches(), 1, "nothing tells nothing");
    }
}
