//! From the inbox to Redis: what is published on a channel goes over the [`super::publisher`] to the
//! server that has the channel. It owns that choice, and the order of a channel's messages also when
//! it moves from one server to another.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::Link;
use super::Redis;
use super::publisher::{Load, Publisher, Task, TaskSender};
use super::receivers::Receivers;
use super::server::Server;
use super::topology::Map;
use crate::hub::{Channel, Inbox};

/// Batches to publish, and until when.
struct Source<'a> {
    link: &'a Link,
    /// Channels without clients.
    gone: UnboundedReceiver<Arc<Channel>>,
    stop: CancellationToken,
    /// `stop` has come: nothing new is published any more.
    stopping: bool,
}

/// Gives each task to the publisher of the server that has the channel, by one map.
struct Router<'a> {
    map: &'a Map,
    senders: Vec<TaskSender>,
    /// Channels that no server has, with something to publish.
    homeless: Vec<Arc<Channel>>,
}

/// Publishes until `stop`, then what is left, however long that takes: its caller's patience is the
/// bound. `gone` are channels without clients.
///
/// One map of servers after the other: when it changes, all publishers are halted, and what they
/// have left is given out anew before anything that was published later.
pub(super) async fn run(
    redis: &Redis,
    link: &Link,
    receivers: &Receivers,
    gone: UnboundedReceiver<Arc<Channel>>,
    stop: CancellationToken,
) {
    let mut maps = redis.topology.watch();
    let mut publishers: Vec<Publisher> = Vec::new();
    // Of channels that no server has.
    let mut stranded = Load::default();
    let mut source = Source {
        link,
        gone,
        stop,
        stopping: false,
    };
    loop {
        // 1. A publisher for each server of the map, with what is left from the one before.
        let map = maps.borrow_and_update().clone();
        let new = |server| Publisher::new(redis, link, receivers, server);
        arrange(new, &map, &mut publishers, &mut stranded);
        // 2. They publish until the map changes, or all is done after `stop`.
        let halted = CancellationToken::new();
        let homeless = publish(&map, &mut publishers, &mut source, &mut maps, &halted).await;
        // 3. Batches without a server wait for one.
        stranded.queue.extend(Inbox::take_from(homeless));
        if !halted.is_cancelled() {
            if stranded.is_empty() {
                return;
            }
            // It changes as long as the topology is there, which is as long as we are.
            let _ = maps.changed().await;
        }
    }
}

/// Publishes by one map, until there is another: then all are `halted`. Returns the channels that no
/// server has.
async fn publish(
    map: &Map,
    publishers: &mut [Publisher<'_>],
    source: &mut Source<'_>,
    maps: &mut watch::Receiver<Arc<Map>>,
    halted: &CancellationToken,
) -> Vec<Arc<Channel>> {
    let mut router = Router {
        map,
        senders: Vec::new(),
        homeless: Vec::new(),
    };
    let mut running = Vec::new();
    for publisher in publishers {
        let (sender, work) = unbounded_channel();
        router.senders.push(sender);
        running.push(publisher.run(work, halted));
    }
    let finished = CancellationToken::new();
    let publishing = async {
        join_all(running).await;
        finished.cancel();
    };
    let routing = async {
        tokio::select! {
            // As above.
            _ = maps.changed() => halted.cancel(),
            () = router.route(source, &finished) => {}
        }
    };
    tokio::join!(routing, publishing);
    router.homeless
}

impl Router<'_> {
    /// Gives out tasks until all is done after the source's stop.
    async fn route(&mut self, source: &mut Source<'_>, finished: &CancellationToken) {
        while !source.stopping {
            tokio::select! {
                channels = source.link.hub.inbox().queued() => self.publish(channels),
                Some(channel) = source.gone.recv() => self.forget(channel),
                () = source.stop.cancelled() => {
                    source.stopping = true;
                    self.give_out_last(source.link);
                }
            }
        }
        // Nothing comes any more, so publishers end when they are done.
        self.senders.clear();
        finished.cancelled().await;
    }

    fn sender(&self, channel: &Channel) -> Option<&TaskSender> {
        self.senders.get(self.map.place(channel.name.as_str()))
    }

    fn publish(&mut self, channels: Vec<Arc<Channel>>) {
        for channel in channels {
            match self.sender(&channel) {
                // A publisher takes tasks as long as it is not halted.
                Some(sender) => drop(sender.send(Task::Publish(channel))),
                None => self.homeless.push(channel),
            }
        }
    }

    fn forget(&self, channel: Arc<Channel>) {
        if let Some(sender) = self.sender(&channel) {
            // As above. If it is halted, Redis forgets this by itself.
            drop(sender.send(Task::Forget(channel)));
        }
    }

    /// The node stops: all of its publishers end, after what is left in the inbox.
    fn give_out_last(&mut self, link: &Link) {
        self.publish(link.hub.inbox().try_queued());
        for channel in link.hub.published() {
            self.forget(channel);
        }
    }
}

/// Makes a publisher for each server of the map, in its order, or keeps the one there is, and loads
/// them with what those before them have left.
fn arrange<'a>(
    new: impl Fn(Arc<Server>) -> Publisher<'a>,
    map: &Map,
    publishers: &mut Vec<Publisher<'a>>,
    stranded: &mut Load,
) {
    let mut left = vec![std::mem::take(stranded)];
    left.extend(publishers.iter_mut().map(|it| std::mem::take(it.load())));
    let mut before = std::mem::take(publishers);
    for server in &map.servers {
        let kept = before
            .iter()
            .position(|publisher| Arc::ptr_eq(server, &publisher.server));
        publishers.push(match kept {
            Some(place) => before.swap_remove(place),
            None => new(server.clone()),
        });
    }
    // The pipelines first: they were taken from the inbox before what is queued.
    for Load { sending, mut queue } in left {
        for sending in sending {
            let load = load_of(map, publishers, stranded, &sending.pending.channel);
            load.sending.push(sending);
        }
        for pending in queue.take() {
            let load = load_of(map, publishers, stranded, &pending.channel);
            load.queue.push(pending);
        }
    }
}

/// The load to which a channel's batches belong.
fn load_of<'a>(
    map: &Map,
    publishers: &'a mut [Publisher],
    stranded: &'a mut Load,
    channel: &Channel,
) -> &'a mut Load {
    publishers
        .get_mut(map.place(channel.name.as_str()))
        .map_or(stranded, Publisher::load)
}
