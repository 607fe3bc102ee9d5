//! Subscriptions: a client's way from where it asks to begin to the live feed. What the feed no
//! longer holds is read from the broker's history, page by page, so that no client makes a node
//! hold more than a page for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Channel, Membership};
use crate::feed::{Cursor, Found, Start, Taken};
use crate::message::{Batch, MessageId, Missed};

/// How long a new client waits until the broker delivers to its channel before it is told that the
/// broker is away.
const LIVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a new client waits for a message that another node has delivered before we take it for
/// one of another history.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// How long a client waits for something old: all that wait take turns, page by page.
const PAGE_PATIENCE: Duration = Duration::from_secs(15);

/// The broker did not confirm the channel, or did not say what its history holds, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerAway;

/// A request to read from a channel's history.
#[derive(Debug)]
pub struct HistoryRequest {
    /// Whose.
    pub channel: Arc<Channel>,
    /// Which part of it.
    pub query: HistoryQuery,
}

/// A part of a history. The answer is dropped if nobody keeps histories.
#[derive(Debug)]
pub enum HistoryQuery {
    /// The newest message's id, [`MessageId::START`] if there is no history.
    Newest(oneshot::Sender<MessageId>),
    /// The channel's feed is to hold everything from this offset on, as far as it can and the
    /// history has it.
    Fill(u64, oneshot::Sender<()>),
    /// Some batches from this offset on, for one who wants more than the feed can hold.
    Page(u64, oneshot::Sender<HistoryPage>),
}

/// Some of a history.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
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
    older: VecDeque<ReplayPage>,
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
pub struct ReplayPage {
    /// If messages are missing before these: how many.
    pub gap: Option<Missed>,
    batches: Vec<Arc<Batch>>,
    /// Messages of the first batch that are not wanted.
    skip: usize,
}

impl Membership {
    /// A place in the channel once the broker delivers to it: what is said from now on will be
    /// read.
    ///
    /// # Errors
    /// If the broker does not do that within five seconds, or does not tell what a place in the
    /// past asks for within 15 s.
    pub async fn subscribe(self, start: Start) -> Result<Subscription, BrokerAway> {
        timeout(LIVE_PATIENCE, self.channel.live())
            .await
            .map_err(|_| BrokerAway)?;
        timeout(PAGE_PATIENCE, self.find_place(start))
            .await
            .map_err(|_| BrokerAway)?
    }

    async fn find_place(self, start: Start) -> Result<Subscription, BrokerAway> {
        let (newest, found) = self.find(start).await;
        let after = matches!(start, Start::After(_));
        let mut older = VecDeque::new();
        let (whole, place) = match found {
            Found::Here { cursor, whole } => (whole, Place::Live(cursor)),
            Found::Earlier {
                epoch,
                offset,
                whole,
                ..
            } => (whole, Place::Reading { epoch, offset }),
            Found::Ahead | Found::Elsewhere => {
                older.push_back(ReplayPage {
                    gap: Some(Missed::Unknown),
                    ..ReplayPage::default()
                });
                match self.channel.feed.expects().0 {
                    0 => (false, Place::Live(self.channel.feed.follow())),
                    // Everything that is kept.
                    epoch => {
                        self.fill(1).await;
                        (false, Place::Reading { epoch, offset: 1 })
                    }
                }
            }
        };
        let told = !older.is_empty();
        let mut this = Subscription {
            membership: self,
            recovered: after && whole,
            newest,
            older,
            place,
        };
        // The first page tells whether all is still there, and only whoever named a message wants
        // to know.
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

    /// Where the feed has a start, after the broker has filled the feed with what is older, or has
    /// brought what is on its way; and the newest message before that.
    async fn find(&self, start: Start) -> (Option<MessageId>, Found) {
        let feed = &self.channel.feed;
        let (mut filled, mut awaited) = (false, false);
        loop {
            // Before the place: who hears nothing until it comes back must not miss what came
            // between the two looks.
            let newest = feed.newest();
            match (feed.find(start), start) {
                (
                    Found::Earlier {
                        offset,
                        gone: false,
                        ..
                    },
                    _,
                ) if !filled => {
                    self.fill(offset).await;
                    filled = true;
                }
                (Found::Ahead, Start::After(id)) if !awaited => {
                    // Whether it has come is looked at again.
                    let _ = timeout(AHEAD_PATIENCE, self.arrival(id)).await;
                    awaited = true;
                }
                (found, _) => return (newest, found),
            }
        }
    }

    /// Waits until the broker has filled the feed from an offset on, as far as it can.
    async fn fill(&self, from: u64) {
        if self.channel.feed.has_room_before().is_some() {
            self.ask(|answer| HistoryQuery::Fill(from, answer)).await;
            self.hub.make_room();
        }
    }

    /// Waits until a message has come that another node has delivered already; not if the broker
    /// does not have it either.
    async fn arrival(&self, id: MessageId) {
        let Some(newest) = self.ask(HistoryQuery::Newest).await else {
            return;
        };
        if newest.epoch != id.epoch || newest.offset < id.offset {
            return;
        }
        let feed = &self.channel.feed;
        let mut cursor = feed.follow();
        let mut taken = Taken::new();
        while matches!(feed.expects(), (epoch, next) if epoch == id.epoch && next <= id.offset) {
            match poll_fn(|context| cursor.poll_take(context, &mut taken)).await {
                Ok(()) => cursor.skip(&taken),
                Err(_) => cursor = feed.follow(),
            }
            taken.clear();
        }
    }

    /// Asks the broker for a part of the history; `None` if nobody keeps it.
    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> HistoryQuery) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let request = HistoryRequest {
            channel: self.channel.clone(),
            query: query(answer),
        };
        self.hub.history_requests.send(request).ok()?;
        answered.await.ok()
    }
}

impl Subscription {
    /// What comes next and is not in the feed; `None` once everything else is.
    ///
    /// # Errors
    /// If the broker does not say what its history holds.
    pub async fn next_replay_page(&mut self) -> Result<Option<ReplayPage>, BrokerAway> {
        match self.older.pop_front() {
            Some(older) => Ok(Some(older)),
            None => timeout(PAGE_PATIENCE, self.read())
                .await
                .map_err(|_| BrokerAway)?,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<Channel> {
        self.membership.channel()
    }

    /// Whether nothing comes before the live feed.
    pub fn is_live(&self) -> bool {
        self.older.is_empty() && matches!(self.place, Place::Live(_))
    }

    /// A membership beside its own, for a session that lives on while this still reads.
    pub fn membership(&self) -> Membership {
        self.membership.again()
    }

    /// The live feed, once [`Self::next_replay_page`] has nothing more.
    pub fn into_live(self) -> (Membership, Cursor) {
        let cursor = match self.place {
            Place::Live(cursor) => cursor,
            Place::Reading { .. } => self.membership.channel.feed.follow(),
        };
        (self.membership, cursor)
    }

    /// Reads a page, or goes over to the feed.
    async fn read(&mut self) -> Result<Option<ReplayPage>, BrokerAway> {
        let Place::Reading { epoch, offset } = &mut self.place else {
            return Ok(None);
        };
        let channel = &self.membership.channel;
        let (kept_from, gone) = match channel.feed.find(Start::After(MessageId {
            epoch: *epoch,
            offset: *offset - 1,
        })) {
            Found::Here { cursor, .. } => {
                self.place = Place::Live(cursor);
                return Ok(None);
            }
            Found::Earlier {
                kept_from, gone, ..
            } => (kept_from, gone),
            Found::Ahead | Found::Elsewhere => {
                // The history began anew while we read the old one.
                self.place = Place::Live(channel.feed.follow());
                return Ok(Some(ReplayPage {
                    gap: Some(Missed::Unknown),
                    ..ReplayPage::default()
                }));
            }
        };
        let from = *offset;
        let page = if gone {
            None
        } else {
            self.membership.hub.room_for_page().await?;
            self.membership
                .ask(|answer| HistoryQuery::Page(from, answer))
                .await
        };
        let page = page.unwrap_or_default();
        let mut batches = page.batches;
        batches.retain(|batch| {
            batch.epoch == *epoch && batch.end() > *offset && batch.offset < kept_from
        });
        // What lies behind a hole is the next page, which begins with telling of it.
        if let Some(hole) = batches
            .windows(2)
            .position(|pair| pair[0].end() != pair[1].offset)
        {
            batches.truncate(hole + 1);
            self.recovered = false;
        }
        let begins = batches.first().map_or(kept_from, |batch| batch.offset);
        let gap = (begins > *offset).then(|| Missed::Exactly(begins - *offset));
        let skip = offset.saturating_sub(begins) as usize;
        *offset = batches.last().map_or(kept_from, |batch| batch.end());
        Ok(Some(ReplayPage { gap, batches, skip }))
    }
}

impl ReplayPage {
    /// The gap before its batches, if there is one; the batches; and how many messages of the first
    /// one are not wanted.
    pub fn into_parts(self) -> (Option<Missed>, Vec<Arc<Batch>>, usize) {
        (self.gap, self.batches, self.skip)
    }

    /// Its messages, each with its id.
    pub fn messages(&self) -> impl Iterator<Item = (&Batch, usize)> {
        let all = self
            .batches
            .iter()
            .flat_map(|batch| (0..batch.len()).map(move |index| (&**batch, index)));
        all.skip(self.skip)
    }
}
