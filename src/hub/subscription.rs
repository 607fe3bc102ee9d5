//! Subscriptions: a client's way from its start to the live feed. Messages that the feed no longer
//! holds are read from the broker's history, page by page, so that no client makes a node hold more
//! than a page for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::history::HistoryQuery;
use super::{Channel, Membership};
use crate::feed::{BeforeWindow, Cursor, Found, NotInWindow, Start};
use crate::message::{Batch, MessageId, Missed};

/// How long a new client waits until the broker delivers to its channel before it is told that the
/// broker is away.
const LIVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a new client waits for a message that another node has delivered before the node takes
/// it for one of another history.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// How long a client waits for a page of history: all clients that wait take turns.
const PAGE_PATIENCE: Duration = Duration::from_secs(15);

/// The broker did not confirm the channel, or did not answer a request for its history, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerAway;

/// A client's place in a channel.
#[derive(Debug)]
pub(crate) struct Subscription {
    membership: Membership,
    /// The client named a message, and no later message is missing.
    pub recovered: bool,
    /// The newest message when it subscribed; `None` if there are no ids because no history is
    /// kept.
    pub newest: Option<MessageId>,
    /// Pages that were read while it subscribed.
    replay: VecDeque<ReplayPage>,
    source: Source,
}

/// Where the next messages of a subscription are.
#[derive(Debug)]
enum Source {
    /// In the feed.
    Feed(Cursor),
    /// In the broker's history.
    History(HistoryPosition),
}

/// A place in the broker's history: the next message to read.
#[derive(Clone, Copy, Debug)]
struct HistoryPosition {
    epoch: u64,
    offset: u64,
}

/// Where a subscription begins.
struct Beginning {
    source: Source,
    /// No message is missing there, as far as the feed knows.
    whole: bool,
    /// The history of the client's message is gone.
    starts_over: bool,
}

/// Messages that come before the live feed.
#[derive(Debug, Default)]
pub(crate) struct ReplayPage {
    /// Messages that are missing before these.
    pub gap: Option<Missed>,
    batches: Vec<Arc<Batch>>,
    /// Messages of the first batch that the client does not get.
    skip: usize,
}

impl Membership {
    /// Subscribes once the broker delivers to the channel: the client receives every message that
    /// is published from then on.
    ///
    /// # Errors
    /// If the broker does not deliver within five seconds, or does not answer a request for history
    /// within 15 s.
    pub(crate) async fn subscribe(self, start: Start) -> Result<Subscription, BrokerAway> {
        timeout(LIVE_PATIENCE, self.channel.live())
            .await
            .map_err(|_| BrokerAway)?;
        timeout(PAGE_PATIENCE, self.begin(start))
            .await
            .map_err(|_| BrokerAway)?
    }

    async fn begin(self, start: Start) -> Result<Subscription, BrokerAway> {
        let resumes = matches!(start, Start::After(_));
        let (newest, found) = self.find(start).await;
        let beginning = self.beginning(found).await;
        let mut this = Subscription {
            membership: self,
            recovered: resumes && beginning.whole,
            newest,
            replay: VecDeque::new(),
            source: beginning.source,
        };
        if beginning.starts_over {
            this.replay.push_back(ReplayPage::unknown_gap());
        }
        // The first page shows whether all is still there. Only a client that named a message wants
        // to know, and one that starts over knows already.
        this.read_first_page(resumes && !beginning.starts_over)
            .await?;
        if resumes {
            this.membership.hub.metrics.resumed(this.recovered, 1);
        }
        Ok(this)
    }

    /// Looks for a start in the feed. Before it gives up, it lets the broker fill the feed with
    /// older messages, or waits for a message that is on its way. Returns the newest message before
    /// that, too.
    async fn find(&self, start: Start) -> (Option<MessageId>, Result<Found, NotInWindow>) {
        let feed = &self.channel.feed;
        let (mut filled, mut awaited) = (false, false);
        loop {
            // Before the place: a client that resumes after this message must not miss one that
            // comes between the two looks.
            let newest = feed.newest();
            match (feed.find(start), start) {
                (Err(NotInWindow::Before(before)), _) if !before.gone && !filled => {
                    self.fill(before.offset).await;
                    filled = true;
                }
                (Err(NotInWindow::Ahead), Start::After(id)) if !awaited => {
                    // The next look shows whether it arrived in time.
                    let _ = timeout(AHEAD_PATIENCE, self.arrival(id)).await;
                    awaited = true;
                }
                (found, _) => return (newest, found),
            }
        }
    }

    async fn beginning(&self, found: Result<Found, NotInWindow>) -> Beginning {
        match found {
            Ok(Found { cursor, whole }) => Beginning {
                source: Source::Feed(cursor),
                whole,
                starts_over: false,
            },
            Err(NotInWindow::Before(before)) => Beginning {
                source: Source::History(HistoryPosition {
                    epoch: before.epoch,
                    offset: before.offset,
                }),
                whole: before.whole,
                starts_over: false,
            },
            Err(NotInWindow::Ahead | NotInWindow::OtherHistory) => Beginning {
                source: self.whole_history().await,
                whole: false,
                starts_over: true,
            },
        }
    }

    /// Everything that is kept.
    async fn whole_history(&self) -> Source {
        let feed = &self.channel.feed;
        match feed.expects().0 {
            0 => Source::Feed(feed.follow()),
            epoch => {
                self.fill(1).await;
                Source::History(HistoryPosition { epoch, offset: 1 })
            }
        }
    }
}

impl Subscription {
    /// The next messages that are not in the live feed; `None` if there are no more.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub(crate) async fn next_replay_page(&mut self) -> Result<Option<ReplayPage>, BrokerAway> {
        match self.replay.pop_front() {
            Some(page) => Ok(Some(page)),
            None => timeout(PAGE_PATIENCE, self.read())
                .await
                .map_err(|_| BrokerAway)?,
        }
    }

    /// The channel.
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        self.membership.channel()
    }

    /// Whether nothing comes before the live feed.
    pub(crate) fn is_live(&self) -> bool {
        self.replay.is_empty() && matches!(self.source, Source::Feed(_))
    }

    /// Another membership, for a session that lives on while this subscription still reads.
    pub(crate) fn membership(&self) -> Membership {
        self.membership.again()
    }

    /// The live feed, once [`Self::next_replay_page`] has nothing more.
    pub(crate) fn into_live(self) -> (Membership, Cursor) {
        let cursor = match self.source {
            Source::Feed(cursor) => cursor,
            Source::History(_) => self.membership.channel.feed.follow(),
        };
        (self.membership, cursor)
    }

    async fn read_first_page(&mut self, reports_gap: bool) -> Result<(), BrokerAway> {
        let Some(mut page) = self.read().await? else {
            return Ok(());
        };
        if !reports_gap {
            page.gap = None;
        }
        self.recovered &= page.gap.is_none();
        self.replay.push_back(page);
        Ok(())
    }

    /// Reads the next page of history. Goes over to the feed, and returns `None`, as soon as that
    /// has the next message.
    async fn read(&mut self) -> Result<Option<ReplayPage>, BrokerAway> {
        let Source::History(from) = self.source else {
            return Ok(None);
        };
        let feed = &self.membership.channel.feed;
        let before = MessageId {
            epoch: from.epoch,
            offset: from.offset - 1,
        };
        match feed.find(Start::After(before)) {
            Ok(found) => {
                self.source = Source::Feed(found.cursor);
                Ok(None)
            }
            Err(NotInWindow::Before(before)) => self.read_page(from, before).await.map(Some),
            // The history began anew while we read the old one.
            Err(NotInWindow::Ahead | NotInWindow::OtherHistory) => {
                self.source = Source::Feed(feed.follow());
                Ok(Some(ReplayPage::unknown_gap()))
            }
        }
    }

    async fn read_page(
        &mut self,
        from: HistoryPosition,
        window: BeforeWindow,
    ) -> Result<ReplayPage, BrokerAway> {
        let mut batches = Vec::new();
        if !window.gone {
            self.membership.hub.room_for_page().await?;
            let query = |answer| HistoryQuery::Page(from.offset, answer);
            let page = self.membership.ask(query).await;
            batches = page.unwrap_or_default().batches;
        }
        // Leave out batches of another history, and those that the client has or the feed holds.
        batches.retain(|batch| {
            batch.epoch == from.epoch
                && batch.end() > from.offset
                && batch.offset < window.kept_from
        });
        // A hole ends the page. The next page begins behind it, with a gap.
        if truncate_at_hole(&mut batches) {
            self.recovered = false;
        }
        // Without any batch, all messages before the window are missing.
        let begins = batches
            .first()
            .map_or(window.kept_from, |batch| batch.offset);
        self.source = Source::History(HistoryPosition {
            epoch: from.epoch,
            offset: batches.last().map_or(window.kept_from, |batch| batch.end()),
        });
        let missed = begins.saturating_sub(from.offset);
        Ok(ReplayPage {
            gap: (missed > 0).then_some(Missed::Exactly(missed)),
            skip: from.offset.saturating_sub(begins) as usize,
            batches,
        })
    }
}

/// Drops the batches behind the first hole. Returns whether there was one.
fn truncate_at_hole(batches: &mut Vec<Arc<Batch>>) -> bool {
    let mut pairs = batches.windows(2);
    let hole = pairs.position(|pair| pair[0].end() != pair[1].offset);
    if let Some(hole) = hole {
        batches.truncate(hole + 1);
    }
    hole.is_some()
}

impl ReplayPage {
    fn unknown_gap() -> Self {
        Self {
            gap: Some(Missed::Unknown),
            ..Self::default()
        }
    }

    /// The gap before its batches, if there is one; the batches; and how many messages of the first
    /// one the client does not get.
    pub(crate) fn into_parts(self) -> (Option<Missed>, Vec<Arc<Batch>>, usize) {
        (self.gap, self.batches, self.skip)
    }

    /// Its messages, each as a batch and the index in it.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (&Batch, usize)> {
        let all = self
            .batches
            .iter()
            .flat_map(|batch| (0..batch.len()).map(move |index| (&**batch, index)));
        all.skip(self.skip)
    }
}
