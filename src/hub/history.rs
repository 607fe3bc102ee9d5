//! Requests to the broker for parts of a channel's history, and waiting for their answers.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Channel, Membership};
use crate::feed::Taken;
use crate::message::{Batch, MessageId};

/// A request to read from a channel's history.
#[derive(Debug)]
pub struct HistoryRequest {
    /// The channel.
    pub channel: Arc<Channel>,
    /// The part of its history.
    pub query: HistoryQuery,
}

/// A part of a history, and where its answer goes. A broker without histories drops the sender.
#[derive(Debug)]
pub enum HistoryQuery {
    /// The newest message's id, [`MessageId::START`] if there is no history.
    Newest(oneshot::Sender<MessageId>),
    /// Fill the channel's feed with everything from this offset on, as far as it has room and the
    /// history has it.
    Fill(u64, oneshot::Sender<()>),
    /// Some batches from this offset on, for a client that wants more than the feed can hold.
    Page(u64, oneshot::Sender<HistoryPage>),
}

/// Some batches of a history.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// 0 if there is no history.
    pub epoch: u64,
    /// Oldest first. The first may begin before the offset of the request.
    pub batches: Vec<Arc<Batch>>,
}

impl Membership {
    /// Waits until the broker has filled the feed from an offset on, as far as it can.
    pub(super) async fn fill(&self, from: u64) {
        if self.channel.feed.has_room_before().is_some() {
            self.ask(|answer| HistoryQuery::Fill(from, answer)).await;
            self.hub.make_room();
        }
    }

    /// Waits until a message arrives that another node has delivered already. Returns at once if
    /// the broker does not have it either.
    pub(super) async fn arrival(&self, id: MessageId) {
        let newest = self.ask(HistoryQuery::Newest).await;
        let is_on_its_way =
            newest.is_some_and(|newest| newest.epoch == id.epoch && newest.offset >= id.offset);
        if !is_on_its_way {
            return;
        }
        let feed = &self.channel.feed;
        let is_missing = || {
            let (epoch, next_offset) = feed.expects();
            epoch == id.epoch && next_offset <= id.offset
        };
        // Before the first look, so that no append is overlooked between look and wait.
        let mut cursor = feed.follow();
        let mut taken = Taken::new();
        while is_missing() {
            match poll_fn(|context| cursor.poll_take(context, &mut taken)).await {
                Ok(()) => cursor.skip(&taken),
                Err(_) => cursor = feed.follow(),
            }
            taken.clear();
        }
    }

    /// Asks the broker for a part of the history; `None` if it keeps none.
    pub(super) async fn ask<T>(
        &self,
        query: impl FnOnce(oneshot::Sender<T>) -> HistoryQuery,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let request = HistoryRequest {
            channel: self.channel.clone(),
            query: query(answer),
        };
        self.hub.history_requests.send(request).ok()?;
        answered.await.ok()
    }
}
