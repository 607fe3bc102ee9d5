//! From the inbox to Redis: what is said on a channel goes over the [`super::publisher`] to the server
//! that has the channel. It owns that choice, and the order of a channel's messages also when it
//! moves from one server to another.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::Redis;
use super::publisher::{Load, Publisher};
use super::topology::Map;
use crate::hub::{Channel, Inbox};

/// Publishes until `stop`, then what is left, however long that takes: its caller's patience is the
/// bound.
///
/// One map of servers after the other: when it changes, all publishers are halted and what they have
/// left is given out anew, before anything that was said later.
pub(super) async fn run(redis: &Redis, link: &Link, stop: CancellationToken) {
    let mut maps = redis.topology.watch();
    let mut publishers: Vec<Publisher> = Vec::new();
    // Of channels that no server has.
    let mut stranded = Load::default();
    let mut stopping = false;
    loop {
        let map = maps.borrow_and_update().clone();
        if let Err(error) = arrange(redis, link, &map, &mut publishers, &mut stranded) {
            return tracing::error!("cannot publish to redis: {error:#}");
        }
        let (halted, finished) = (CancellationToken::new(), CancellationToken::new());
        let (mut ways, mut running) = (Vec::new(), Vec::new());
        for publisher in &mut publishers {
            let (way, said) = mpsc::unbounded_channel();
            ways.push(way);
            running.push(publisher.run(said, &halted));
        }
        let publishing = async {
            join_all(running).await;
            finished.cancel();
        };
        let mut homeless = Vec::new();
        let mut give_out = |channels: Vec<Arc<Channel>>, ways: &[mpsc::UnboundedSender<_>]| {
            for channel in channels {
                match ways.get(map.place(channel.name.as_str())) {
                    // A publisher listens as long as it is not halted.
                    Some(way) => drop(way.send(channel)),
                    None => homeless.push(channel),
                }
            }
        };
        let giving_out = async {
            loop {
                if stopping {
                    // Nothing comes any more, so publishers end when they are done.
                    ways.clear();
                }
                tokio::select! {
                    channels = link.hub.inbox().queued(), if !stopping => give_out(channels, &ways),
                    () = stop.cancelled(), if !stopping => {
                        give_out(link.hub.inbox().try_queued(), &ways);
                        stopping = true;
                    }
                    // It changes as long as the topology is there, which is as long as we are.
                    _ = maps.changed() => return halted.cancel(),
                    () = finished.cancelled(), if stopping => return,
                }
            }
        };
        tokio::join!(giving_out, publishing);
        stranded.queue.extend(Inbox::take_from(homeless));
        if !halted.is_cancelled() {
            if stranded.is_empty() {
                return;
            }
            // As above.
            let _ = maps.changed().await;
        }
    }
}

/// Makes a publisher for each server of the map, in its order, or keeps the one there is, and loads them
/// with what those before them have left.
fn arrange<'a>(
    redis: &'a Redis,
    link: &'a Link,
    map: &Map,
    publishers: &mut Vec<Publisher<'a>>,
    stranded: &mut Load,
) -> anyhow::Result<()> {
    let mut left = vec![std::mem::take(stranded)];
    left.extend(
        publishers
            .iter_mut()
            .map(|publisher| std::mem::take(publisher.load())),
    );
    let mut before = std::mem::take(publishers);
    for server in &map.servers {
        let kept = before
            .iter()
            .position(|publisher| Arc::ptr_eq(server, &publisher.server));
        publishers.push(kept.map_or_else(
            || Publisher::new(redis, link, server.clone()),
            |place| Ok(before.swap_remove(place)),
        )?);
    }
    for Load { sending, mut queue } in left {
        for sending in sending {
            load(map, publishers, stranded, &sending.pending.channel)
                .sending
                .push(sending);
        }
        for outgoing in queue.take() {
            load(map, publishers, stranded, &outgoing.channel)
                .queue
                .push(outgoing);
        }
    }
    Ok(())
}

fn load<'a>(
    map: &Map,
    publishers: &'a mut [Publisher],
    stranded: &'a mut Load,
    channel: &Channel,
) -> &'a mut Load {
    publishers
        .get_mut(map.place(channel.name.as_str()))
        .map_or(stranded, Publisher::load)
}
