//! Catching up: what was said before a subscription brought it to this node. A channel whose first
//! client has come needs only to know where its history ends. After a reconnect, and at each gap,
//! what was missed is read from the history; [`super::relay`] holds back what arrives meanwhile.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

use super::super::envelope::Payload;
use super::Redis;
use super::pages::{PageSize, Reader};
use super::relay::{Relay, Release, Request};
use super::replay::Replay;
use crate::hub::HistoryRequest;

/// Channels whose history's end is asked for at the same time, and as many that read what they have
/// missed: enough to fill a connection after a reconnect with many channels.
const AT_ONCE: usize = 64;

/// Answers requests until there can be no more of the node's own.
pub(super) async fn run(
    redis: &Redis,
    relay: &Arc<Relay>,
    requests: UnboundedReceiver<Request>,
    history_requests: UnboundedReceiver<HistoryRequest>,
) {
    let reader = Reader::new(redis);
    let replay = Replay::new(&reader);
    let (behind, lagging) = unbounded_channel();
    tokio::join!(
        // Nobody who only wants what comes waits behind those that read pages.
        concurrently(requests, AT_ONCE, |request| Box::pin(arrive(
            &reader, relay, request, &behind
        ))),
        concurrently(lagging, AT_ONCE, |request| Box::pin(try_catch_up(
            &reader, relay, request
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
fn again(reader: &Reader<'_>, relay: &Arc<Relay>, mut request: Request, error: &anyhow::Error) {
    let (pause, relay) = (request.backoff.next(), relay.clone());
    reader.complain(&request.channel.name, error);
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        relay.request(request);
    });
}

/// Lets a channel go live that has missed nothing: because nobody has waited for anything so far,
/// or nothing was said.
async fn arrive(
    reader: &Reader<'_>,
    relay: &Arc<Relay>,
    request: Request,
    behind: &UnboundedSender<Request>,
) {
    // The backlog may not have fit; then it ends elsewhere by now.
    for _ in 0..2 {
        if !relay.ask(&request) {
            return;
        }
        let newest = match reader.newest(&request.channel.name).await {
            Ok(newest) => newest,
            Err(error) => return again(reader, relay, request, &error),
        };
        if !relay.begin(&request, &newest) {
            break;
        }
        if relay.release(&request, &newest) != Release::Again {
            return;
        }
    }
    // Its receiver is there as long as we are.
    let _ = behind.send(request);
}

async fn try_catch_up(reader: &Reader<'_>, relay: &Arc<Relay>, request: Request) {
    if let Err(error) = catch_up(reader, relay, &request).await {
        again(reader, relay, request, &error);
    }
}

/// Reads what a channel has missed, and lets it go live.
async fn catch_up(
    reader: &Reader<'_>,
    relay: &Arc<Relay>,
    request: &Request,
) -> anyhow::Result<()> {
    let channel = &request.channel;
    let mut size = PageSize::like(&channel.feed);
    // Nobody missed a message that came before the first client was let in.
    let first = relay.is_first(&channel.name);
    // Behind the last page, if there may be more: what it held may be nothing that brings the feed
    // forward.
    let mut next = None;
    let mut unreadable = 0;
    look_back(reader, relay, request, &mut size).await?;
    while relay.ask(request) {
        let (epoch, next_offset) = channel.feed.expects();
        if relay.is_rewound(request) {
            warn!(
                channel = channel.name.as_str(),
                "redis has lost the end of a history and given offsets out again"
            );
            reader.abandon(&channel.name, epoch).await?;
            relay.abandoned(request);
        }
        // With the newest that was heard, which must still be what it was.
        let heard = (if epoch == 0 { 0 } else { next_offset - 1 }, 0);
        let page = reader
            .read(&channel.name, next.take().unwrap_or(heard), &mut size)
            .await?;
        let newest = page.newest;
        if epoch != 0 && newest.id.epoch != 0 && epoch != newest.id.epoch {
            // Another history: from its beginning, as far as it is kept.
            relay.lose(request, newest.id.epoch, 1);
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
            let messages = relay.recover(request, batch, !first);
            if !first {
                relay.recovered(messages);
            }
            channel.feed.settled().await;
        }
        next = page.next.filter(|_| !ends);
        if relay.is_rewound(request) {
            next = None;
            continue;
        }
        if next.is_some() {
            continue;
        }
        // What the history no longer has although it was there.
        let feed = channel.feed.expects();
        if newest.id.epoch != 0 && (feed.0 != newest.id.epoch || newest.id.offset >= feed.1) {
            relay.lose(request, newest.id.epoch, newest.id.offset + 1);
        }
        if relay.release(request, &newest) != Release::Again {
            break;
        }
    }
    relay.count_unreadable(channel, unreadable);
    Ok(())
}

/// Compares the newest batches that were received with those that the history has in their place.
async fn look_back(
    reader: &Reader<'_>,
    relay: &Relay,
    request: &Request,
    size: &mut PageSize,
) -> anyhow::Result<()> {
    let (epoch, next_offset) = request.channel.feed.expects();
    if epoch != 0 && relay.has_received(request) {
        for batch in reader
            .look_back(&request.channel.name, next_offset, size)
            .await?
        {
            relay.compare(request, batch);
        }
    }
    Ok(())
}
