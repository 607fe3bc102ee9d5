//! Catching up: reading what was published before a subscription brought it to this node. A channel
//! whose first client has come needs only to know where its history ends. After a reconnect, and at
//! each gap, what was missed is read from the history; the [`super::receiver`] holds back what
//! arrives meanwhile.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tracing::warn;

use super::super::envelope::Payload;
use super::Redis;
use super::history::{EntryId, Excerpt, Newest};
use super::pages::{PageSize, Reader};
use super::receiver::{Release, Request, Shared};
use super::replay::Replay;
use crate::hub::HistoryRequest;

/// Channels whose history's end is asked for at the same time, and as many that read what they have
/// missed: enough to fill a connection after a reconnect with many channels.
const AT_ONCE: usize = 64;

/// Answers requests until there can be no more of the node's own.
pub(super) async fn run(
    redis: &Redis,
    shared: &Shared,
    requests: UnboundedReceiver<Request>,
    history_requests: UnboundedReceiver<HistoryRequest>,
) {
    let reader = Reader::new(redis);
    let replay = Replay::new(&reader);
    let (behind, lagging) = unbounded_channel();
    tokio::join!(
        // Channels that have missed nothing do not wait behind those that read pages.
        concurrently(requests, AT_ONCE, |request| Box::pin(arrive(
            &reader, shared, request, &behind
        ))),
        concurrently(lagging, AT_ONCE, |request| Box::pin(try_catch_up(
            &reader, shared, request
        ))),
        // As many as clients wait, which wait for permits.
        concurrently(history_requests, usize::MAX, |request| Box::pin(
            replay.answer(request)
        )),
    );
}

/// Does what is received, at most so many at the same time, until there can be no more.
async fn concurrently<'a, T>(
    mut receiver: UnboundedReceiver<T>,
    at_once: usize,
    make: impl Fn(T) -> BoxFuture<'a, ()> + Send,
) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(item) = receiver.recv(), if running.len() < at_once => running.push(make(item)),
            Some(()) = running.next() => {}
            else => return,
        }
    }
}

/// Tries again later. Other channels are read meanwhile.
fn again(reader: &Reader<'_>, shared: &Shared, mut request: Request, error: &anyhow::Error) {
    reader.warn_unreadable(&request.receiver.channel.name, error);
    let (pause, requests) = (request.backoff.next(), shared.requests.clone());
    tokio::spawn(async move {
        sleep(pause).await;
        // The other end ends with the broker.
        let _ = requests.send(request);
    });
}

/// Lets a channel go live that has missed nothing: because nobody has waited for anything so far,
/// or nothing was published. Others catch up `behind` it.
async fn arrive(
    reader: &Reader<'_>,
    shared: &Shared,
    request: Request,
    behind: &UnboundedSender<Request>,
) {
    // The backlog may not have fit; then it ends elsewhere by now.
    for _ in 0..2 {
        if !request.ask() {
            return;
        }
        let newest = match reader.newest(&request.receiver.channel.name).await {
            Ok(newest) => newest,
            Err(error) => return again(reader, shared, request, &error),
        };
        if !request.begin(&newest) {
            break;
        }
        if request.receiver.release(&request, &newest) != Release::Again {
            return;
        }
    }
    // The other end is there as long as we are.
    let _ = behind.send(request);
}

async fn try_catch_up(reader: &Reader<'_>, shared: &Shared, request: Request) {
    let mut catching_up = CatchingUp::new(reader, &request);
    if let Err(error) = catching_up.run().await {
        again(reader, shared, request, &error);
    }
}

/// Reads what one channel has missed.
struct CatchingUp<'a> {
    reader: &'a Reader<'a>,
    request: &'a Request,
    size: PageSize,
    /// Somebody has waited for what is read: nobody has missed what came before the first client.
    late: bool,
    /// Behind the last page, if there may be more. What the page held may be nothing that brings the
    /// feed forward.
    next: Option<EntryId>,
    /// Entries that nobody can read.
    unreadable: u64,
}

impl<'a> CatchingUp<'a> {
    fn new(reader: &'a Reader<'a>, request: &'a Request) -> Self {
        Self {
            reader,
            request,
            size: PageSize::like(&request.receiver.channel.feed),
            late: !request.is_first(),
            next: None,
            unreadable: 0,
        }
    }

    /// Reads page after page until the channel is live, or a newer request has taken over.
    async fn run(&mut self) -> anyhow::Result<()> {
        self.look_back().await?;
        while self.request.ask() {
            if self.request.is_rewound() {
                self.abandon().await?;
            }
            if self.read_page().await? {
                break;
            }
        }
        self.request.warn_of_unreadable(self.unreadable);
        Ok(())
    }

    /// Compares the newest batches that were received with those that the history has in their
    /// place: after a failover they may be others.
    async fn look_back(&mut self) -> anyhow::Result<()> {
        let channel = &self.request.receiver.channel;
        let (epoch, next_offset) = channel.feed.expects();
        if epoch == 0 || !self.request.has_received() {
            return Ok(());
        }
        let batches = self
            .reader
            .look_back(&channel.name, next_offset, &mut self.size)
            .await?;
        for batch in batches {
            self.request.compare(batch);
        }
        Ok(())
    }

    /// Ends a history of which Redis has lost the end: it has given offsets out again.
    async fn abandon(&self) -> anyhow::Result<()> {
        let channel = &self.request.receiver.channel;
        warn!(
            channel = channel.name.as_str(),
            "redis has lost the end of a history and given offsets out again"
        );
        let (epoch, _) = channel.feed.expects();
        self.reader.abandon(&channel.name, epoch).await?;
        self.request.abandoned();
        Ok(())
    }

    /// Reads a page and takes it; returns whether the channel needs no more.
    async fn read_page(&mut self) -> anyhow::Result<bool> {
        let (request, channel) = (self.request, &self.request.receiver.channel);
        // 1. Read on behind the last page, or from the newest message that was received, which must
        // still be what it was.
        let (epoch, next_offset) = channel.feed.expects();
        let newest_received = if epoch == 0 { 0 } else { next_offset - 1 };
        let from = self.next.take().unwrap_or((newest_received, 0));
        let page = self
            .reader
            .read(&channel.name, from, &mut self.size)
            .await?;
        let newest = page.newest;
        // 2. Another history is read from its beginning, as far as it is kept.
        if epoch != 0 && newest.id.epoch != 0 && epoch != newest.id.epoch {
            request.lose(newest.id.epoch, 1);
            return Ok(false);
        }
        // 3. Take the batches.
        let next = page.next;
        let reached_end = self.take(page).await;
        if request.is_rewound() {
            return Ok(false);
        }
        self.next = next.filter(|_| !reached_end);
        if self.next.is_some() {
            return Ok(false);
        }
        // 4. Give up what the history no longer has although it was there.
        let (epoch, next_offset) = channel.feed.expects();
        let is_behind =
            newest.id.epoch != 0 && (epoch != newest.id.epoch || newest.id.offset >= next_offset);
        if is_behind {
            request.lose(newest.id.epoch, newest.id.offset + 1);
        }
        // 5. Take what was held back meanwhile.
        Ok(request.receiver.release(request, &newest) != Release::Again)
    }

    /// Takes the batches of a page; returns whether it reaches beyond the newest message that Redis
    /// named. What was published since comes over the subscription.
    async fn take(&mut self, page: Excerpt) -> bool {
        let Excerpt {
            newest, payloads, ..
        } = page;
        let mut reached_end = false;
        for payload in payloads {
            let Payload::Batch(batch) = Payload::decode(payload) else {
                self.unreadable += 1;
                continue;
            };
            if newest.has(&batch) {
                self.request.recover(batch, self.late);
                // Readers have their turn, so that a long history pushes nothing out unread.
                self.request.receiver.channel.feed.settled().await;
            } else if is_later(&newest, batch.epoch, batch.last_offset()) {
                reached_end = true;
            } else {
                self.unreadable += 1;
            }
        }
        reached_end
    }
}

/// Whether a batch was published since the newest message was asked for.
fn is_later(newest: &Newest, epoch: u64, last_offset: u64) -> bool {
    epoch == newest.id.epoch && last_offset > newest.id.offset
}
