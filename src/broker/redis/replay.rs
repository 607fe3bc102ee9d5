//! Reads for clients what this node does not have of a history, once for all that want the same. A
//! feed is filled backwards as far as anybody needs and it can hold. The rest is read
//! page by page, and clients that want the same page share it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot::Sender;

use super::super::envelope::Payload;
use super::Backoff;
use super::pages::{PageSize, Reader};
use crate::hub::{Channel, HistoryPage, HistoryQuery, HistoryRequest};
use crate::message::{Batch, MessageId, PublisherId};

/// Reads for clients.
pub(super) struct Replay<'a> {
    reader: &'a Reader<'a>,
    shared: Mutex<Shared>,
}

/// Reads that are under way, and the clients that wait for them. The publisher id stands for the
/// channel, because a channel that went and came again has another one.
#[derive(Default)]
struct Shared {
    fills: HashMap<PublisherId, Fill>,
    /// By the offset with which a page begins.
    pages: HashMap<(PublisherId, u64), Vec<Sender<HistoryPage>>>,
}

/// A feed that is being filled.
struct Fill {
    /// The lowest offset that anybody wants.
    from: u64,
    waiting: Vec<Sender<()>>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(reader: &'a Reader<'a>) -> Self {
        Self {
            reader,
            shared: Mutex::default(),
        }
    }

    /// Answers a request, or leaves that to the one that reads the same.
    pub(super) async fn answer(&self, HistoryRequest { channel, query }: HistoryRequest) {
        match query {
            HistoryQuery::Newest(answer) => self.newest(&channel, answer).await,
            HistoryQuery::Fill(from, done) => {
                if self.begins_fill(&channel, from, done) {
                    self.fill(&channel).await;
                }
            }
            HistoryQuery::Page(from, answer) => {
                if self.begins_page(&channel, from, answer) {
                    self.page(&channel, from).await;
                }
            }
        }
    }

    async fn newest(&self, channel: &Channel, answer: Sender<MessageId>) {
        match self.reader.newest(&channel.name).await {
            // The client may have left just now.
            Ok(newest) => drop(answer.send(newest.id)),
            // A client that gets no answer goes on without.
            Err(error) => self.reader.warn_unreadable(&channel.name, &error),
        }
    }

    /// Adds a client that waits; returns whether the feed is not being filled yet.
    fn begins_fill(&self, channel: &Channel, from: u64, done: Sender<()>) -> bool {
        match self.lock().fills.entry(channel.publisher_id) {
            Entry::Occupied(mut entry) => {
                let fill = entry.get_mut();
                fill.from = fill.from.min(from);
                fill.waiting.push(done);
                false
            }
            Entry::Vacant(entry) => {
                entry.insert(Fill {
                    from,
                    waiting: vec![done],
                });
                true
            }
        }
    }

    /// Fills a feed until nobody wants more, or no more is to be had.
    async fn fill(&self, channel: &Channel) {
        let (mut size, mut backoff) = (PageSize::unknown(), Backoff::default());
        while let Some((begins, most)) = self.unfilled(channel) {
            // 1. Read the page before the window. One page of a channel at a time, so that other
            // channels' pages come in between.
            let epoch = channel.feed.begins().0;
            let turn = channel.paging.lock().await;
            let page = self
                .reader
                .read_back(&channel.name, begins, most, &mut size)
                .await;
            drop(turn);
            // 2. Prepend it. The feed ends the filling itself when it has no room.
            match page {
                Ok((payloads, is_all)) => {
                    // At a hole, or where there is no room, filling ends. Clients read older pages
                    // one by one.
                    if !payloads
                        .into_iter()
                        .all(|payload| prepend(channel, payload))
                    {
                        channel.feed.seal(epoch, channel.feed.begins().1);
                    } else if is_all {
                        channel.feed.exhaust(epoch, channel.feed.begins().1);
                    }
                    if is_all {
                        self.end_fill(channel);
                        return;
                    }
                }
                Err(error) => {
                    self.reader.warn_unreadable(&channel.name, &error);
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// The offset before which the feed lacks messages that a client waits for, and how many. If it
    /// lacks none, the clients are answered.
    fn unfilled(&self, channel: &Channel) -> Option<(u64, u64)> {
        let mut shared = self.lock();
        let fill = shared.fills.get_mut(&channel.publisher_id)?;
        // Clients that have left need nothing.
        fill.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = !fill.waiting.is_empty();
        let missing = channel
            .feed
            .has_room_before()
            .filter(|begins| wanted && *begins > fill.from);
        let Some(begins) = missing else {
            drop(shared);
            self.end_fill(channel);
            return None;
        };
        Some((begins, begins - fill.from))
    }

    fn end_fill(&self, channel: &Channel) {
        let fill = self.lock().fills.remove(&channel.publisher_id);
        for waiting in fill.into_iter().flat_map(|fill| fill.waiting) {
            // As above.
            let _ = waiting.send(());
        }
    }

    /// Adds a client that waits; returns whether this page is not being read yet.
    fn begins_page(&self, channel: &Channel, from: u64, answer: Sender<HistoryPage>) -> bool {
        let mut shared = self.lock();
        let waiting = shared
            .pages
            .entry((channel.publisher_id, from))
            .or_default();
        waiting.push(answer);
        waiting.len() == 1
    }

    /// Reads a page for all clients that want it, until it is there or none waits any more.
    async fn page(&self, channel: &Channel, from: u64) {
        let key = (channel.publisher_id, from);
        let mut backoff = Backoff::default();
        let page = loop {
            let turn = channel.paging.lock().await;
            let page = self.read(channel, from).await;
            drop(turn);
            match page {
                Ok(page) => break page,
                Err(error) => self.reader.warn_unreadable(&channel.name, &error),
            }
            // Try again, unless all clients have left meanwhile.
            tokio::time::sleep(backoff.next()).await;
            let mut shared = self.lock();
            if shared
                .pages
                .get(&key)
                .is_none_or(|waiting| waiting.iter().all(Sender::is_closed))
            {
                shared.pages.remove(&key);
                return;
            }
        };
        for answer in self.lock().pages.remove(&key).unwrap_or_default() {
            // As above.
            let _ = answer.send(page.clone());
        }
    }

    /// Some batches from an offset on. A page on which nobody can read anything is not the end: there
    /// may be more.
    async fn read(&self, channel: &Channel, offset: u64) -> anyhow::Result<HistoryPage> {
        let (mut from, mut size) = ((offset, 0), PageSize::unknown());
        loop {
            let page = self.reader.read(&channel.name, from, &mut size).await?;
            let batches = page
                .payloads
                .into_iter()
                .filter_map(decode)
                .map(|mut batch| {
                    channel.feed.charge_page(&mut batch);
                    Arc::new(batch)
                });
            let batches: Vec<_> = batches.collect();
            match page.next {
                Some(next) if batches.is_empty() => from = next,
                _ => {
                    return Ok(HistoryPage {
                        epoch: page.newest.id.epoch,
                        batches,
                    });
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepend(channel: &Channel, payload: Bytes) -> bool {
    decode(payload).is_some_and(|batch| channel.feed.prepend(batch))
}

fn decode(payload: Bytes) -> Option<Batch> {
    let Payload::Batch(envelope) = Payload::decode(payload) else {
        return None;
    };
    let (epoch, offset) = (envelope.epoch, envelope.offset);
    let published_ns = envelope.published_ns;
    let mut batch = envelope.into_batch(false).build(published_ns);
    (batch.epoch, batch.offset, batch.span) = (epoch, offset, batch.len() as u64);
    Some(batch)
}
