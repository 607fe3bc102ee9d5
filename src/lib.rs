//! # echocast
//!
//! What one client says, every client on every replica hears, in the same order.
//!
//! ```text
//!   socket ──frames──▶ Session ──▶ Hub ──inbox──▶ Broker ──publish──▶ Redis
//!                                                                       │  (every node, this one included)
//!   socket ◀──bytes── Session ◀──Cursor── Feed ◀──append── Broker ◀─────┘
//! ```
//!
//! One direction, one loop. A message leaves its socket, crosses the broker once, is appended to
//! its channel's [`feed`] on every node, and each session reads the feed at its own pace with its
//! own [`feed::Cursor`]; those that have seen everything wait together, a [`feed::Group`] for each
//! thread. The sender hears itself the same way as everyone else; that is what makes the order the
//! same everywhere. Without Redis the broker moves batches from inbox to feed inside the process;
//! nothing else knows the difference.
//!
//! ## Where a message is, where it can be lost, what the client sees then
//!
//! | it is in | bound | when full or broken |
//! |---|---|---|
//! | the sender's socket | the kernel's buffers | TCP slows the sender |
//! | [`frame`], unfinished | `--max-message` | close 1009; 1002 and 1007 for malformed ones |
//! | its session, not decoded | a read of 64 KiB | the session decodes on when it has its turn and the inbox has room |
//! | the [`hub`]'s inbox | [`hub::INBOX_BYTES`], [`hub::INBOX_MESSAGES`] | sockets are not read, so TCP slows the senders |
//! | on its way to Redis | the inbox's bound | sent again until Redis has it, which keeps it once |
//! | Redis, and on its way to a node | `--history`, `--history-bytes`, `--history-ttl` | what a node missed it reads from the history; what that no longer has is counted as lost |
//! | the [`feed`] of a node | `--feed-bytes` a channel | readers that lag out are closed with 1013 or skipped ahead, and counted |
//! | a reader's socket | the kernel's buffers | it lags, see above |
//! | nowhere near a client that was away | `--history`, `--history-bytes`, `--history-ttl` | it names what it heard last and gets the rest from the feed, or from Redis in pages that its session writes before it follows the feed ([`hub::Subscription`]); what is gone is told as a gap |
//!
//! All of these together take at most `--memory` of a node: everything that holds message bytes
//! counts them in the [`budget`]. When that is short, [`hub::Hub::make_room`] empties channels
//! without clients, then shortens the largest feeds.
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
//! ## Invariants
//!
//! 1. The broker is the only writer of a feed. Sessions only read it.
//! 2. A session knows the hub and its own socket. Its shard polls it and tells it nothing: no
//!    session-to-session call.
//! 3. Past the frame reader a message is bytes shared by everybody, never copied per client.
//! 4. A node keeps nothing that must outlive the process.
//! 5. Every queue and buffer has a bound, a setting or a documented constant, and a metric.
//! 6. A slow reader loses its connection or its place, by name; it never slows a writer. Nothing
//!    that belongs to one channel or client makes another wait: no loop shared by channels awaits a
//!    reader, and expensive sessions wait behind others.
//! 7. `redis::*` stays inside [`broker`] and [`redis_address`], `axum::*` inside [`http`], [`client`] and the handshake,
//!    `clap::*` inside [`config`] and the binary, `prometheus::*` inside [`metrics`] and the ops routes.
//! 8. Frame code is synchronous and does no I/O.
//! 9. No process-wide mutable state: several nodes live in one test process.
//!
//! Read the modules in this order.

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this build was made from, as `ECHOCAST_COMMIT` told when it was made.
pub const COMMIT: &str = match option_env!("ECHOCAST_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

pub mod config;
pub mod redis_address;
pub mod node;
pub mod channel;
pub mod budget;
pub mod message;
pub mod frame;
pub mod feed;
pub mod hub;
pub mod broker;
pub mod client;
pub mod ws;
pub mod http;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
