//! The link to Redis: a [`super::line`] to each server that has channels. It owns which channel is
//! heard over which line, also when channels move from one server to another.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::relay::Relay;
use super::server::Server;
use super::topology::Map;
use super::{Redis, line};
use crate::hub::Change;

/// What the line to a server is told of. A server that comes back is another one, although it is
/// called the same.
type Lines = Vec<(Arc<Server>, UnboundedSender<Change>)>;

/// Keeps all lines until `stop`.
pub(super) async fn keep(redis: &Redis, link: &Link, relay: Arc<Relay>, stop: CancellationToken) {
    let mut maps = redis.topology.watch();
    maps.mark_changed();
    let mut map = Arc::new(Map::default());
    let mut lines = Lines::new();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            changes = link.hub.interest().take() => {
                changes.into_iter().for_each(|change| tell(&map, &lines, &relay, change));
            }
            Ok(()) = maps.changed() => {
                let before = std::mem::replace(&mut map, maps.borrow_and_update().clone());
                move_channels(link, &relay, &before, &map, &lines);
                lines.retain(|(server, _)| map.servers.iter().any(|other| Arc::ptr_eq(server, other)));
                for server in &map.servers {
                    if line(&lines, server).is_none() {
                        let (tell, told) = mpsc::unbounded_channel();
                        running.push(line::keep(redis, link, &relay, server.clone(), told));
                        lines.push((server.clone(), tell));
                    }
                }
                link.status.set(map.is_up());
            }
            // A line ends when its server has nothing any more.
            Some(()) = running.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn line<'a>(lines: &'a Lines, server: &Arc<Server>) -> Option<&'a UnboundedSender<Change>> {
    lines
        .iter()
        .find(|(other, _)| Arc::ptr_eq(other, server))
        .map(|(_, line)| line)
}

fn tell(map: &Map, lines: &Lines, relay: &Relay, change: Change) {
    // At once: the line may be busy or broken, and would not get to it.
    if let Change::Gone(channel) = &change {
        relay.forget(channel);
    }
    if let Some(line) = map
        .owner(&change.channel().name)
        .and_then(|server| line(lines, server))
    {
        // Its receiver lives as long as its server has channels.
        drop(line.send(change));
    }
}

/// Hears channels over other lines than before. A server unsubscribes by itself what it has given
/// away; a new line begins with all channels of its server.
fn move_channels(link: &Link, relay: &Relay, before: &Map, map: &Map, lines: &Lines) {
    for channel in link.hub.all() {
        let owner = map.owner(&channel.name);
        if before.owner(&channel.name).map(Arc::as_ptr) == owner.map(Arc::as_ptr) {
            continue;
        }
        relay.unsubscribed(&channel);
        if let Some(line) = owner.and_then(|server| line(lines, server)) {
            // As above.
            drop(line.send(Change::New(channel)));
        }
    }
}
