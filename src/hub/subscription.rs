//! Subscriptions: a client's way from where it asks to begin to the live feed. What the feed no longer holds is read from
//! the broker's history, page by page, so that no client makes a node hold more than a page for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{Channel, Membership};
use crate::feed::{Cursor, Found, Start};
use crate::message::{Batch, Format, MessageId, put_gap};

/// Clients for which histories are read at the same time.
pub(super) const READERS: usize = 32;

/// How long a new client waits for its place before it is told that the broker is away.
const LIVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a new client waits for a message that another node has delivered before we take it for one of another history.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// How long reading a page may take once a client is served.
const PAGE_PATIENCE: Duration = Duration::from_secs(15);

/// Time between two looks whether a message that another node has delivered has come here, too.
const AHEAD_PAUSE: Duration = Duration::from_millis(5);

/// The broker did not confirm the channel, or did not say what its history holds, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerAway;

/// A request to read from a channel's history.
#[derive(Debug)]
pub struct Reading {
    /// Whose.
    pub channel: Arc<Channel>,
    /// The offset to begin with.
    pub from: u64,
    /// Where the page goes; dropped if there is no history.
    pub answer: oneshot::Sender<Page>,
}

/// Some of a history.
#[derive(Debug, Default)]
pub struct Page {
    /// 0 if there is no history.
    pub epoch: u64,
    /// Oldest first; the first may begin before what was asked for.
    pub batches: Vec<Arc<Batch>>,
}

/// A client's place in a channel.
#[derive(Debug)]
pub struct Subscription {
    membership: Membership,
    /// It asked to go on after a message, and nothing that came after that is missing.
    pub recovered: bool,
    /// The newest message when it came; `None` if there are no ids because nobody keeps history.
    pub newest: Option<MessageId>,
    older: VecDeque<Older>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Live(Cursor),
    /// In the history, before this offset.
    Reading {
        epoch: u64,
        offset: u64,
    },
}

/// Something that comes before the live feed.
#[derive(Debug, Default)]
pub struct Older {
    /// If messages are missing before these: how many, if that is known.
    pub gap: Option<Option<u64>>,
    batches: Vec<Arc<Batch>>,
    /// Messages of the first batch that are not wanted.
    skip: usize,
}

impl Membership {
    /// A place in the channel once the broker delivers to it: what is said from now on will be read.
    ///
    /// # Errors
    /// If the broker does not do that, and tell what a place in the past asks for, within five seconds.
    pub async fn subscribe(self, start: Start) -> Result<Subscription, BrokerAway> {
        timeout(LIVE_PATIENCE, self.find_place(start)).await.map_err(|_| BrokerAway)?
    }

    async fn find_place(self, start: Start) -> Result<Subscription, BrokerAway> {
        self.channel.live().await;
        let patience = Instant::now() + AHEAD_PATIENCE;
        let feed = &self.channel.feed;
        let after = matches!(start, Start::After(_));
        let mut older = VecDeque::new();
        let (newest, whole, place) = loop {
            // Before the place: who hears nothing until it comes back must not miss what came between the two looks.
            let newest = feed.newest();
            let (whole, place) = match feed.find(start) {
                Found::Here { cursor, whole } => (whole, Place::Live(cursor)),
                Found::Ahead if Instant::now() < patience => {
                    sleep(AHEAD_PAUSE).await;
                    continue;
                }
                Found::Earlier { epoch, offset, whole, .. } => (whole, Place::Reading { epoch, offset }),
                Found::Ahead | Found::Elsewhere => {
                    older.push_back(Older { gap: Some(None), ..Older::default() });
                    match feed.expects().0 {
                        0 => (false, Place::Live(feed.follow())),
                        epoch => (false, Place::Reading { epoch, offset: 1 }),
                    }
                }
            };
            break (newest, whole, place);
        };
        let told = !older.is_empty();
        let mut this = Subscription { membership: self, recovered: after && whole, newest, older, place };
        // The first page tells whether all is still there, and only whoever named a message wants to know.
        if let Some(mut page) = this.read().await? {
            if !after || told {
                page.gap = None;
            }
            this.recovered &= page.gap.is_none();
            this.older.push_back(page);
        }
        if after {
            this.membership.hub.metrics.resumed(this.recovered, 1);
        }
        Ok(this)
    }
}

impl Subscription {
    /// What comes next and is not in the feed; `None` once everything else is.
    ///
    /// # Errors
    /// If the broker does not say what its history holds.
    pub async fn older(&mut self) -> Result<Option<Older>, BrokerAway> {
        match self.older.pop_front() {
            Some(older) => Ok(Some(older)),
            None => timeout(PAGE_PATIENCE, self.read()).await.map_err(|_| BrokerAway)?,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<Channel> {
        self.membership.channel()
    }

    /// The live feed, once [`Self::older`] has nothing more.
    pub fn into_live(self) -> (Membership, Cursor) {
        let cursor = match self.place {
            Place::Live(cursor) => cursor,
            Place::Reading { .. } => self.membership.channel.feed.follow(),
        };
        (self.membership, cursor)
    }

    /// Reads a page, or goes over to the feed.
    async fn read(&mut self) -> Result<Option<Older>, BrokerAway> {
        let Place::Reading { epoch, offset } = &mut self.place else { return Ok(None) };
        // Only while it reads: one that takes its page slowly keeps nobody else from reading.
        let _permit = self.membership.hub.readers.acquire().await.map_err(|_| BrokerAway)?;
        let channel = &self.membership.channel;
        let kept_from = match channel.feed.find(Start::After(MessageId { epoch: *epoch, offset: *offset - 1 })) {
            Found::Here { cursor, .. } => {
                self.place = Place::Live(cursor);
                return Ok(None);
            }
            Found::Earlier { kept_from, .. } => kept_from,
            Found::Ahead | Found::Elsewhere => {
                // The history began anew while we read the old one.
                self.place = Place::Live(channel.feed.follow());
                return Ok(Some(Older { gap: Some(None), ..Older::default() }));
            }
        };
        let (answer, page) = oneshot::channel();
        let reading = Reading { channel: channel.clone(), from: *offset, answer };
        let page = match self.membership.hub.readings.send(reading) {
            // It comes back without an answer only if nobody keeps histories.
            Ok(()) => page.await.unwrap_or_default(),
            Err(_) => Page::default(),
        };
        let mut batches = page.batches;
        batches.retain(|batch| batch.epoch == *epoch && batch.end() > *offset && batch.offset < kept_from);
        // What lies behind a hole is the next page, which begins with telling of it.
        if let Some(hole) = batches.windows(2).position(|pair| pair[0].end() != pair[1].offset) {
            batches.truncate(hole + 1);
            self.recovered = false;
        }
        let begins = batches.first().map_or(kept_from, |batch| batch.offset);
        let gap = (begins > *offset).then(|| Some(begins - *offset));
        let skip = offset.saturating_sub(begins) as usize;
        *offset = batches.last().map_or(kept_from, |batch| batch.end());
        Ok(Some(Older { gap, batches, skip }))
    }
}

impl Older {
    /// Its bytes, in pieces, and how many messages they hold.
    pub fn pieces(&self, format: Format) -> (Vec<Bytes>, usize) {
        let mut pieces = Vec::with_capacity(self.batches.len() + 1);
        if let Some(missed) = self.gap {
            let mut mark = Vec::new();
            put_gap(format, missed, &mut mark);
            pieces.push(mark.into());
        }
        let mut skip = self.skip;
        let mut messages = 0;
        for batch in &self.batches {
            messages += batch.len() - skip;
            pieces.push(batch.bytes(format).slice(batch.end_of(format, std::mem::take(&mut skip))..));
        }
        (pieces, messages)
    }

    /// Its messages, each with its id.
    pub fn messages(&self) -> impl Iterator<Item = (&Batch, usize)> {
        let all = self.batches.iter().flat_map(|batch| (0..batch.len()).map(move |index| (&**batch, index)));
        all.skip(self.skip)
    }
}
