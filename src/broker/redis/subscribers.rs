//! The link to Redis: a [`super::subscriber`] to each server that has channels. It owns which channel is
//! heard over which subscriber, also when channels move from one server to another.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::receiver::Receivers;
use super::server::Server;
use super::topology::Map;
use super::{Redis, subscriber};
use crate::hub::{Change, Channel};

/// What the subscriber to a server is told of. A server that comes back is another one, although it is
/// called the same.
type Subscribers = Vec<(Arc<Server>, UnboundedSender<Change>)>;

/// Keeps all subscribers until `stop`.
pub(super) async fn keep(
    redis: &Redis,
    link: &Link,
    receivers: Arc<Receivers>,
    gone: UnboundedSender<Arc<Channel>>,
    stop: CancellationToken,
) {
    let mut maps = redis.topology.watch();
    maps.mark_changed();
    let mut map = Arc::new(Map::default());
    let mut subscribers = Subscribers::new();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            changes = link.hub.interest().take() => {
                changes.into_iter().for_each(|change| tell(&map, &subscribers, &receivers, &gone, change));
            }
            Ok(()) = maps.changed() => {
                let before = std::mem::replace(&mut map, maps.borrow_and_update().clone());
                move_channels(link, &receivers, &before, &map, &subscribers);
                subscribers.retain(|(server, _)| map.servers.iter().any(|other| Arc::ptr_eq(server, other)));
                for server in &map.servers {
                    if subscriber(&subscribers, server).is_none() {
                        let (tell, told) = mpsc::unbounded_channel();
                        running.push(subscriber::keep(redis, link, &receivers, server.clone(), told));
                        subscribers.push((server.clone(), tell));
                    }
                }
                link.status.set(map.is_up());
            }
            // A subscriber ends when its server has nothing any more.
            Some(()) = running.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn subscriber<'a>(
    subscribers: &'a Subscribers,
    server: &Arc<Server>,
) -> Option<&'a UnboundedSender<Change>> {
    subscribers
        .iter()
        .find(|(other, _)| Arc::ptr_eq(other, server))
        .map(|(_, subscriber)| subscriber)
}

fn tell(
    map: &Map,
    subscribers: &Subscribers,
    receivers: &Receivers,
    gone: &UnboundedSender<Arc<Channel>>,
    change: Change,
) {
    // At once: the subscriber may be busy or broken, and would not get to it.
    match &change {
        Change::New(channel) => receivers.add(channel),
        Change::Gone(channel) => {
            // Ends with the publishers, which need no more then.
            drop(gone.send(channel.clone()));
            if !receivers.forget(channel) {
                // Nobody wanted to hear it.
                return;
            }
        }
    }
    if let Some(subscriber) = map
        .owner(&change.channel().name)
        .and_then(|server| subscriber(subscribers, server))
    {
        // Its receiver lives as long as its server has channels.
        drop(subscriber.send(change));
    }
}

/// Hears channels over other subscribers than before. A server unsubscribes by itself what it has given
/// away; a new subscriber begins with all channels of its server.
fn move_channels(
    link: &Link,
    receivers: &Receivers,
    before: &Map,
    map: &Map,
    subscribers: &Subscribers,
) {
    for channel in link.hub.all() {
        let owner = map.owner(&channel.name);
        if before.owner(&channel.name).map(Arc::as_ptr) == owner.map(Arc::as_ptr) {
            continue;
        }
        receivers.unsubscribed(&channel);
        if let Some(subscriber) = owner.and_then(|server| subscriber(subscribers, server)) {
            // As above.
            drop(subscriber.send(Change::New(channel)));
        }
    }
}
