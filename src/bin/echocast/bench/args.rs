//! The command line of `echocast bench`.

use std::time::Duration;

use bytesize::ByteSize;

const ABOUT: &str = "\
Publishers and subscribers all listen on one channel and check every message: nothing lost, nothing twice, each \
publisher's messages in their order, and one order for everybody. Latency is measured from publish to receipt, for \
every delivery.

With --rate 0 each publisher keeps --window messages in flight: how much the server can do. With a rate, messages are \
due at fixed times, whatever the server does: how long they take. One that could not be sent in time is measured from \
when it was due.

Exit 0 if every message was heard once and in one order by everybody, 1 if not, 64 for a load that cannot be run.";

/// Measure a server, and check that it tells everybody the same.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(crate) struct Args {
    /// Servers, all of them for one channel: connections are spread over them in turn. ws:// only
    #[arg(default_value = "ws://localhost:8080/bench", value_name = "URL")]
    pub(super) urls: Vec<String>,

    /// Connections that only listen
    #[arg(short, long, value_name = "N", default_value_t = 100)]
    pub(super) subscribers: usize,

    /// Connections that publish, and listen, too; 0 leaves everybody idle
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    pub(super) publishers: usize,

    /// Messages a second of all publishers together; 0 is as many as --window allows
    #[arg(short, long, value_name = "N", default_value_t = 0.0)]
    pub(super) rate: f64,

    /// Without a rate: messages each publisher has on their way
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    pub(super) window: u32,

    /// Length of a message, at least 40 bytes
    #[arg(long, value_name = "BYTES", default_value = "64")]
    pub(super) size: ByteSize,

    /// Ask servers to deflate messages. Publishers send plain ones
    #[arg(long)]
    pub(super) deflate: bool,

    /// Servers speak Socket.IO: messages are events named "message". For
    /// ws://host/socket.io/?EIO=4&transport=websocket
    #[arg(long, conflicts_with = "deflate")]
    pub(super) socket_io: bool,

    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) duration: Duration,

    /// How long to publish before that
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(super) warmup: Duration,

    /// Further connections that never read: what do they cost the others?
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) silent: usize,

    /// A process of the server on this machine, whose CPU time and memory are measured; repeatable.
    /// What a connection takes is told from 1,000 connections on
    #[arg(long, value_name = "PID")]
    pub(super) pid: Vec<u32>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,

    /// Allow servers that are not on this machine, within limits
    #[arg(long)]
    pub(super) i_own_this_server: bool,
}
