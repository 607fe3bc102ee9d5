//! # echocast
//!
//! A message that one client sends on a path reaches every client of that path, on every replica,
//! in the same order.
//!
//! ```text
//!   socket ──frames──▶ Session ──▶ Hub ──inbox──▶ Broker ──publish──▶ Redis
//!                                                                       │  (every node, this one included)
//!   socket ◀──bytes── Session ◀──Cursor── Feed ◀──append── Broker ◀─────┘
//! ```
//!
//! One direction, one loop. A message leaves its socket, crosses the broker once, and is appended
//! to its channel's [`feed`] on every node. Each session reads the feed at its own pace with its
//! own [`feed::Cursor`]. Sessions of one thread that have read everything wait together, in a
//! [`feed::Group`]. The sender receives its message the same way as all others, so the order is the
//! same everywhere. Without Redis the broker moves batches from inbox to feed inside the process.
//!
//! ## Where a message is, where it can be lost, and what the client sees then
//!
//! | it is in | bound | when full or broken |
//! |---|---|---|
//! | the sender's socket | the kernel's buffers | TCP slows the sender |
//! | [`frame`], unfinished | `--max-message` | close 1009; 1002 and 1007 for malformed ones |
//! | its session, not decoded | a read of 64 KiB | the session decodes on in its next turn, once the inbox has room |
//! | the [`hub`]'s inbox | [`hub::inbox::INBOX_BYTES`], [`hub::inbox::INBOX_MESSAGES`] | sockets are not read, so TCP slows the senders |
//! | on its way to Redis | the inbox's bound | sent again until Redis has it, which keeps it once |
//! | Redis, and on its way to a node | `--history`, `--history-bytes`, `--history-ttl` | a node reads the messages it missed from the history; messages that are no longer there are counted as lost |
//! | the [`feed`] of a node | `--feed-bytes` a channel | readers that lag out are closed with 1013 or skipped ahead, and counted |
//! | a reader's socket | the kernel's buffers | the reader lags, see above |
//! | not near a client that was away | `--history`, `--history-bytes`, `--history-ttl` | it resumes after the last message it received: from the feed, or from Redis in pages that its session writes first ([`hub::Subscription`]); missing messages are reported as a gap |
//!
//! All of these together take at most `--memory` of a node: everything that holds message bytes
//! counts them in the [`budget`]. When that is short, [`hub::Hub::make_room`] empties channels
//! without clients, then shortens the largest feeds.
//!
//! ## A walk
//!
//! Three ways through the code to follow with a finger. Each step names a file, and then names that
//! it or a module in it defines.
//!
//! One message, from socket to socket:
//!
//! - `src/ws/shard/visits.rs`: a thread's `Shard` lets ready sessions `poll`.
//! - `src/ws/session.rs`: `Session::poll` reads, then writes.
//! - `src/ws/session/input.rs`: `read_socket` takes bytes, if the inbox has room (`may_read`).
//! - `src/frame.rs`: `Decoder::decode_into` makes messages of frames, and a `Violation` of others.
//! - `src/ws/session/publishing.rs`: `take_message` publishes one under the sender's mark.
//! - `src/hub/publication.rs`: `Publication::push_with` adds it to the `Outbox` of its channel.
//! - `src/hub/inbox.rs`: `Inbox::add` lists the channel; the broker takes it by `take_from`.
//! - `src/broker/redis/publishers.rs`: `Router` passes the channel to its server's publisher.
//! - `src/broker/redis/publisher.rs`: `fill_pipeline` takes its batches, `try_send` sends them.
//! - `src/broker/redis/publisher/command.rs`: `add_publish` calls the publish script.
//! - `src/broker/redis/publisher/answers.rs`: `settle` answers receipts and makes room.
//! - `src/broker/redis/pushes.rs`: `receive_message` gets the batch back, on every node.
//! - `src/broker/redis/receivers.rs`: `Receivers::deliver` finds the receiver of its channel.
//! - `src/broker/redis/receiver.rs`: `Receiver::deliver` holds it back while the channel catches up.
//! - `src/broker/redis/receiver/take.rs`: `take_next` accepts the next batch, or asks for the history.
//! - `src/feed/writer.rs`: `FeedWriter::accept` appends it; `Accepted` is the answer.
//! - `src/feed/walk.rs`: `Walk::step` wakes the readers, which are mostly groups.
//! - `src/feed/group.rs`: `Group::begin` takes it once for all sessions of a thread.
//! - `src/ws/session/output.rs`: `write_live` shows it to each session.
//! - `src/ws/write_plan.rs`: `WritePlan::all` collects the parts that this client gets.
//! - `src/message/batch.rs`: `Batch::bytes` are the same for all clients of one format.
//! - `src/ws/socket.rs`: `Socket::write` hands them to the kernel.
//!
//! One flag, from the command line to its use:
//!
//! - `src/bin/echocast/main.rs`: `Arguments` are parsed.
//! - `src/config/lifetime.rs`: `KeepaliveSettings` defines `--ping-interval` with default and help.
//! - `src/config/given.rs`: `time` parses it, `Complaining` collects what is wrong.
//! - `src/config.rs`: `Settings::validate` makes a `Config`, or returns all `Complaints`.
//! - `src/node/parts.rs`: `Keepalives` are made from that config.
//! - `src/client/keepalive.rs`: `PingSchedule` computes visits, `Keepalive::run` makes them.
//! - `src/ws/session/liveness.rs`: `Liveness` counts visits; `ping` sends the frame.
//!
//! One fault, a broken connection to Redis, to its log line:
//!
//! - `src/broker/redis/pushes.rs`: `Pushes::close` notifies the subscriber.
//! - `src/broker/redis/subscriber.rs`: `serve` ends with the error, and `report` logs `no link to redis`.
//! - `src/broker.rs`: `Status::set` informs metrics and readiness; `explain` adds the reason.
//! - `src/broker/redis/receiver.rs`: `unsubscribed` and then `subscribed` begin a catch-up.
//! - `src/broker/redis/catch_up.rs`: `look_back` and `read_page` read the history.
//! - `src/broker/redis/receiver/catching_up.rs`: `recover` appends it; `lose` counts and marks gaps.
//! - `src/broker/redis/receiver/release.rs`: `release` takes the batches that were held back.
//!
//! ## How nodes work together
//!
//! - **Subscribing.** Each node subscribes, on a connection of its own, to the channels that its
//!   clients are on (`echocast:{news}` for channel `news`), and for [`hub::LINGER`] after the last
//!   client left. Clients receive only batches that came back from Redis, through one ordered
//!   reader.
//! - **Publishing.** A node publishes over pooled connections. While one publish is under way, new
//!   messages of that channel become its next batch, so under load one command carries many.
//! - **In Redis.** One script call publishes a batch. It rejects a batch that it has seen, because
//!   a publish is repeated until it is answered. It gives the messages their offsets, appends the
//!   batch to the channel's history (a stream, with a hash and the keys of messages beside it),
//!   trims that, and publishes the same bytes. The hash outlives the messages by a day, so that a
//!   client that returns late still learns how many it missed.
//! - **Receiving.** A node knows the next offset of each channel. It drops a batch that it has.
//!   After a hole, or a new subscription, it first reads the history and holds back later batches.
//!   Of a channel that is new to the node it reads only the newest offset, so that a client that
//!   asks for nothing old joins at once.
//! - **Replaying.** Histories are read once for all clients that want the same, in pages of about
//!   half a MiB. At most two pages are on their way to a node, so that live messages do not wait
//!   behind histories.
//! - **Versions.** Batches are protobuf. A node ignores fields that it does not know and manages
//!   without fields that are missing, so that nodes of different versions run side by side.
//!
//! The runbook, `deploy/README.md`, has the names in Redis and what happens when Redis changes.
//!
//! ## Lock order
//!
//! A thread that holds a lock takes only locks further down. All are short and released before any
//! `.await`, except the first.
//!
//! 1. [`hub::Channel::paging`], for as long as a page of history is read.
//! 2. The state of a receiver (`src/broker/redis/receiver.rs`), while it orders batches and appends
//!    them.
//! 3. The hub's note that making room was futile (`src/hub/memory.rs`): one thread makes room.
//! 4. The hub's channels.
//! 5. A channel's outbox, for one [`hub::Publication`]; its keys; its parked sessions.
//! 6. The inbox's lists of queued and parked channels.
//! 7. A feed's window.
//! 8. The keepalive's wakers.
//! 9. A shard's ready queue, which every waker of a session takes.
//!
//! Locks without a number are leaves: nothing else is taken under them.
//!
//! ## Invariants
//!
//! 1. The broker is the only writer of a feed. Sessions only read it.
//! 2. A session knows the hub and its own socket. Its shard polls it and passes it nothing else: no
//!    session calls another.
//! 3. Behind the frame decoder a message is bytes that all clients share. It is never copied for a
//!    client.
//! 4. A node keeps nothing that must outlive the process.
//! 5. Every queue and buffer has a bound, a setting or a documented constant, and a metric.
//! 6. A slow reader loses its connection or its place, and that is counted; it never slows a writer.
//!    Nothing that belongs to one channel or client makes another wait: no loop shared by channels
//!    awaits a reader, and expensive sessions wait behind others.
//! 7. `redis::*` stays inside [`broker`] and [`redis_address`], `axum::*` inside [`http`], [`client`] and the handshake,
//!    `clap::*` inside [`config`] and the binary, `prometheus::*` inside [`metrics`] and the ops routes.
//! 8. Frame code is synchronous and does no I/O.
//! 9. No process-wide mutable state: several nodes live in one test process.
//!
//! Read the modules in this order.

#![warn(unreachable_pub)]

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of this build, from the variable `ECHOCAST_COMMIT` of the build.
pub const COMMIT: &str = match option_env!("ECHOCAST_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Header of a handshake's answer with the version of this service.
pub use ws::handshake::VERSION as VERSION_HEADER;
/// The subprotocol with ids and acknowledgements.
pub use ws::v1::PROTOCOL as V1_PROTOCOL;

pub mod config;
mod redis_address;
pub mod node;
mod channel;
mod budget;
pub mod message;
pub mod frame;
mod feed;
pub mod hub;
pub mod broker;
pub mod client;
mod ws;
mod http;
mod metrics;
pub mod shutdown;
pub mod telemetry;
