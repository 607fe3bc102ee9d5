//! Catching up: what was said before a subscription brought it to this node. A channel whose first
//! client has come needs only to know where its history ends. After a reconnect, and at each gap,
//! what was missed is read from the history; [`super::receiver`] holds back what arrives meanwhile.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

use super::super::envelope::Payload;
use super::Redis;
use super::pages::{PageSize, Reader};
use super::receiver::{Receivers, Release, Request};
use super::replay::Replay;
use crate::hub::HistoryRequest;

/// Channels whose history's end is asked for at the same time, and as many that read what they have
/// missed: enough to fill a connection after a reconnect with many channels.
const AT_ONCE: usize = 64;

/// Answers requests until there can be no more of the node's own.
pub(super) async fn run(
    redis: &Redis,
    receivers: &Arc<Receivers>,
    requests: UnboundedReceiver<Request>,
    history_requests: UnboundedReceiver<HistoryRequest>,
) {
    let reader = Reader::new(redis);
    let replay = Replay::new(&reader);
    let (behind, lagging) = unbounded_channel();
    tokio::join!(
        // Nobody who only wants what comes waits behind those that read pages.
        concurrently(requests, AT_ONCE, |request| Box::pin(arrive(
            &reader, receivers, request, &behind
        ))),
        concurrently(lagging, AT_ONCE, |request| Box::pin(try_catch_up(
            &reader, receivers, request
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
fn again(
    reader: &Reader<'_>,
    receivers: &Arc<Receivers>,
    mut request: Request,
    error: &anyhow::Error,
) {
    let (pause, receivers) = (request.backoff.next(), receivers.clone());
    reader.warn_unreadable(&request.channel.name, error);
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        receivers.request(request);
    });
}

/// Lets a channel go live that has missed nothing: because nobody has waited for anything so far,
/// or nothing was said.
async fn arrive(
    reader: &Reader<'_>,
    receivers: &Arc<Receivers>,
    request: Request,
    behind: &UnboundedSender<Request>,
) {
    // The backlog may not have fit; then it ends elsewhere by now.
    for _ in 0..2 {
        if !receivers.ask(&request) {
            return;
        }
        let newest = match reader.newest(&request.channel.name).await {
            Ok(newest) => newest,
            Err(error) => return again(reader, receivers, request, &error),
        };
        if !receivers.begin(&request, &newest) {
            break;
        }
        if receivers.release(&request, &newest) != Release::Again {
            return;
        }
    }
    // Its receiver is there as long as we are.
    let _ = behind.send(request);
}

async fn try_catch_up(reader: &Reader<'_>, receivers: &Arc<Receivers>, request: Request) {
    if let Err(error) = catch_up(reader, receivers, &request).await {
        again(reader, receivers, request, &error);
    }
}

/// Reads what a channel has missed, and lets it go live.
async fn catch_up(
    reader: &Reader<'_>,
    receivers: &Arc<Receivers>,
    request: &Request,
) -> anyhow::Result<()> {
    let channel = &request.channel;
    let mut size = PageSize::like(&channel.feed);
    // Nobody missed a message that came before the first client was let in.
    let first = receivers.is_first(&channel.name);
    // Behind the last page, if there may be more: what it held may be nothing that brings the feed
    // forward.
    let mut next = None;
    let mut unreadable = 0;
    look_back(reader, receivers, request, &mut size).await?;
    while receivers.ask(request) {
        let (epoch, next_offset) = channel.feed.expects();
        if receivers.is_rewound(request) {
            warn!(
                channel = channel.name.as_str(),
                "redis has lost the end of a history and given offsets out again"
            );
            reader.abandon(&channel.name, epoch).await?;
            receivers.abandoned(request);
        }
        // With the newest that was heard, which must still be what it was.
        let heard = (if epoch == 0 { 0 } else { next_offset - 1 }, 0);
        let page = reader
            .read(&channel.name, next.take().unwrap_or(heard), &mut size)
            .await?;
        let newest = page.newest;
        if epoch != 0 && newest.id.epoch != 0 && epoch != newest.id.epoch {
            // Another history: from its beginning, as far as it is kept.
            receivers.lose(request, newest.id.epoch, 1);
            continue;
        }
        let mut ends = false;
        for payload in page.payloads {
            let Payload::Batch(batch) = Payload::decode(payload) else {
                unreadable += 1;
                continue;
            };
            if !newest.has(&batch) {
                // Published since the newest was asked for: the subscription brings it, and all
                // behind it.
                let is_later =
                    batch.epoch == newest.id.epoch && batch.last_offset() > newest.id.offset;
                ends |= is_later;
                unreadable += u64::from(!is_later);
                continue;
            }
            let messages = receivers.recover(request, batch, !first);
            if !first {
                receivers.recovered(messages);
            }
            channel.feed.settled().await;
        }
        next = page.next.filter(|_| !ends);
        if receivers.is_rewound(request) {
            next = None;
            continue;
        }
        if next.is_some() {
            continue;
        }
        // What the history no longer has although it was there.
        let feed = channel.feed.expects();
        if newest.id.epoch != 0 && (feed.0 != newest.id.epoch || newest.id.offset >= feed.1) {
            receivers.lose(request, newest.id.epoch, newest.id.offset + 1);
        }
        if receivers.release(request, &newest) != Release::Again {
            break;
        }
    }
    receivers.count_unreadable(channel, unreadable);
    Ok(())
}

/// Compares the newest batches that were received with those that the history has in their place.
async fn look_back(
    reader: &Reader<'_>,
    receivers: &Receivers,
    request: &Request,
    size: &mut PageSize,
) -> anyhow::Result<()> {
    let (epoch, next_offset) = request.channel.feed.expects();
    if epoch != 0 && receivers.has_received(request) {
        for batch in reader
            .look_back(&request.channel.name, next_offset, size)
            .await?
        {
            receivers.compare(request, batch);
        }
    }
    Ok(())
}
