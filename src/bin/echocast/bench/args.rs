//! The command line of `echocast bench`. `plan` checks them.

use std::time::Duration;

use bytesize::ByteSize;
use humantime::parse_duration;

const ABOUT: &str = "\
Publishers and subscribers all subscribe to one channel and check every message: no message is \
lost or duplicated, each publisher's messages arrive in order, and all connections receive one \
order. Latency is measured for every delivery, from publish to receipt.

With --rate 0 each publisher keeps --window messages in flight. This measures throughput. With a \
rate, every message is due at a fixed time, however fast the server is. This measures latency. If \
a message could not be sent in time, its latency counts from the time it was due.

Exit code: 0 if every connection received every message once and in one order, 1 if not, 64 if \
the load cannot be run.";

/// Measure a server, and check that all its clients receive the same
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(crate) struct Args {
    /// Servers, all with the same channel; connections are spread over them evenly. ws:// only
    #[arg(default_value = "ws://localhost:8080/bench", value_name = "URL")]
    pub(super) urls: Vec<String>,

    /// Connections that only subscribe
    #[arg(short, long, value_name = "N", default_value_t = 100)]
    pub(super) subscribers: usize,

    /// Connections that publish and subscribe. With 0, all connections stay idle
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    pub(super) publishers: usize,

    /// Messages a second, of all publishers together. With 0, as many as --window allows
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub(super) rate: f64,

    /// Messages that each publisher keeps in flight when there is no --rate
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    pub(super) window: u32,

    /// Length of a message, at least 40 bytes
    #[arg(long, value_name = "BYTES", default_value = "64")]
    pub(super) size: ByteSize,

    /// Ask servers to compress messages (permessage-deflate). Publishers send uncompressed ones
    #[arg(long)]
    pub(super) deflate: bool,

    /// Speak Socket.IO: each message is an event named "message". The URL is then
    /// ws://HOST/socket.io/?EIO=4&transport=websocket
    #[arg(long, conflicts_with = "deflate")]
    pub(super) socket_io: bool,

    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(super) duration: Duration,

    /// How long to publish before measuring starts
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(super) warmup: Duration,

    /// Extra connections that never read, to see what they cost the others
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) silent: usize,

    /// Process of the server on this machine, whose CPU time and memory are measured; repeatable.
    /// From 1,000 connections on, the memory of a connection is reported too
    #[arg(long, value_name = "PID")]
    pub(super) pid: Vec<u32>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,

    /// Allow servers that are not on this machine, within limits
    #[arg(long)]
    pub(super) i_own_this_server: bool,
}
