//! A [`super::subscriber`] to each server that has channels. It owns which channel is received over
//! which of them, also when channels move from one server to another, and adds and removes the
//! [`super::receivers`].

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::Redis;
use super::receiver::Receiver;
use super::receivers::Receivers;
use super::server::Server;
use super::subscriber::{Change, Keeper};
use super::topology::Map;
use crate::hub::{self, Channel};

/// Where the channels are, and how to reach the subscribers.
struct Subscribers {
    receivers: Arc<Receivers>,
    map: Arc<Map>,
    /// A server that comes back is another one, although it has the same name.
    senders: Vec<(Arc<Server>, UnboundedSender<Change>)>,
    /// To [`super::publishers`]: channels that have gone.
    gone: UnboundedSender<Arc<Channel>>,
}

/// Keeps a subscriber to each server until `stop`. `changes` are channels that come and go; those
/// that have gone are handed on to `gone`.
pub(super) async fn run(
    redis: &Redis,
    link: &Link,
    receivers: Arc<Receivers>,
    mut changes: UnboundedReceiver<hub::Change>,
    gone: UnboundedSender<Arc<Channel>>,
    stop: CancellationToken,
) {
    let mut maps = redis.topology.watch();
    maps.mark_changed();
    let mut subscribers = Subscribers {
        receivers: receivers.clone(),
        map: Arc::default(),
        senders: Vec::new(),
        gone,
    };
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(change) = changes.recv() => subscribers.follow(change),
            Ok(()) = maps.changed() => {
                let map = maps.borrow_and_update().clone();
                for (server, changes) in subscribers.redraw(map) {
                    running.push(Keeper::new(redis, link, &receivers, server, changes).run());
                }
                link.status.set(subscribers.map.is_up());
            }
            // A subscriber ends when its server has nothing any more.
            Some(()) = running.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Subscribers {
    /// A channel has come or gone. Its receiver comes and goes at once: the subscriber may be busy
    /// or broken, and would not get to it.
    fn follow(&self, change: hub::Change) {
        match change {
            hub::Change::New(channel, writer) => {
                let receiver = self.receivers.add(channel, writer);
                self.send(receiver, Change::Subscribe);
            }
            hub::Change::Gone(channel) => {
                // Without a receiver, clients have only published there.
                if let Some(receiver) = self.receivers.remove(&channel) {
                    self.send(receiver, Change::Unsubscribe);
                }
                // The publishers may have ended.
                let _ = self.gone.send(channel);
            }
        }
    }

    /// Takes a new map; returns the servers that need a subscriber, and what is sent to it.
    fn redraw(&mut self, map: Arc<Map>) -> Vec<(Arc<Server>, UnboundedReceiver<Change>)> {
        let before = std::mem::replace(&mut self.map, map);
        self.move_channels(&before);
        let servers = &self.map.servers;
        self.senders
            .retain(|(server, _)| servers.iter().any(|other| Arc::ptr_eq(server, other)));
        let mut added = Vec::new();
        for server in servers {
            if sender_to(&self.senders, server).is_none() {
                let (sender, changes) = unbounded_channel();
                self.senders.push((server.clone(), sender));
                added.push((server.clone(), changes));
            }
        }
        added
    }

    /// Receives channels over other subscribers than before. A server unsubscribes by itself what it
    /// has given away; a new subscriber begins with all channels of its server.
    fn move_channels(&self, before: &Map) {
        for receiver in self.receivers.all() {
            let name = &receiver.channel.name;
            let owner = self.map.owner(name).map(Arc::as_ptr);
            if before.owner(name).map(Arc::as_ptr) != owner {
                receiver.unsubscribed();
                self.send(receiver, Change::Subscribe);
            }
        }
    }

    /// Tells the subscriber to the server that has the channel, if there is one.
    fn send(&self, receiver: Arc<Receiver>, change: fn(Arc<Receiver>) -> Change) {
        if let Some(server) = self.map.owner(&receiver.channel.name)
            && let Some(sender) = sender_to(&self.senders, server)
        {
            // The other end lives as long as its server has channels.
            let _ = sender.send(change(receiver));
        }
    }
}

fn sender_to<'a>(
    senders: &'a [(Arc<Server>, UnboundedSender<Change>)],
    server: &Arc<Server>,
) -> Option<&'a UnboundedSender<Change>> {
    senders
        .iter()
        .find(|(other, _)| Arc::ptr_eq(other, server))
        .map(|(_, sender)| sender)
}
