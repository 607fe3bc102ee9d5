//! The link to Redis: a [`super::line`] to each server that has channels. It owns which channel is heard over which line,
//! also when channels move from one server to another.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::relay::Relay;
use super::topology::Map;
use super::{Redis, line};
use crate::hub::Change;

/// Keeps all lines until `stop`.
pub(super) async fn keep(redis: &Redis, link: &Link, relay: Arc<Relay>, stop: CancellationToken) {
    let mut maps = redis.topology.watch();
    maps.mark_changed();
    let mut map = Arc::new(Map::default());
    // What each server's line is told of, by the server's name.
    let mut lines: HashMap<String, UnboundedSender<Change>> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            changes = link.hub.interest().take() => {
                changes.into_iter().for_each(|change| tell(&map, &lines, &relay, change));
            }
            Ok(()) = maps.changed() => {
                let before = std::mem::replace(&mut map, maps.borrow_and_update().clone());
                move_channels(link, &before, &map, &lines);
                lines.retain(|name, _| map.servers.iter().any(|server| server.name == *name));
                for server in &map.servers {
                    lines.entry(server.name.clone()).or_insert_with(|| {
                        let (tell, told) = mpsc::unbounded_channel();
                        running.push(line::keep(redis, link, &relay, server.clone(), told));
                        tell
                    });
                }
                link.status.set(map.is_up());
            }
            // A line ends when its server has nothing any more.
            Some(()) = running.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn tell(map: &Map, lines: &HashMap<String, UnboundedSender<Change>>, relay: &Relay, change: Change) {
    let name = &change.channel().name;
    match map.owner(name).and_then(|server| lines.get(&server.name)) {
        // Its receiver lives as long as its server has channels.
        Some(line) => drop(line.send(change)),
        None if change.is_new() => {}
        None => relay.forget(name),
    }
}

/// Hears channels over other lines than before. A server unsubscribes by itself what it has given away; a new line begins
/// with all channels of its server.
fn move_channels(link: &Link, before: &Map, map: &Map, lines: &HashMap<String, UnboundedSender<Change>>) {
    for channel in link.hub.all() {
        let owner = map.owner(&channel.name);
        if before.owner(&channel.name).map(|server| &server.name) == owner.map(|server| &server.name) {
            continue;
        }
        channel.set_live(false);
        if let Some(line) = owner.and_then(|server| lines.get(&server.name)) {
            // As above.
            drop(line.send(Change::New(channel)));
        }
    }
}
