//! `echocast bench`: load and truth. This file is its command line and its order of events; what may be asked for is
//! decided in `plan`, connections are opened by `dial`, the load itself is `load`'s, and what it showed is told by
//! `report` and `table`.

mod plan;
mod dial;
mod dialect;
mod load;
mod connection;
mod publisher;
mod frames;
mod inflate;
mod stamp;
mod tally;
mod truth;
mod processes;
mod progress;
mod watch;
mod report;
mod histogram;
mod table;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use tokio::task::spawn_blocking;

use crate::connect::{Stop, usage_error};
use crate::show::{json_for_output, notice};
use load::Load;
use plan::Plan;
use progress::Progress;
use report::Report;
pub(crate) use table::latency;

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
    urls: Vec<String>,

    /// Connections that only listen
    #[arg(short, long, value_name = "N", default_value_t = 100)]
    subscribers: usize,

    /// Connections that publish, and listen, too; 0 leaves everybody idle
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    publishers: usize,

    /// Messages a second of all publishers together; 0 is as many as --window allows
    #[arg(short, long, value_name = "N", default_value_t = 0.0)]
    rate: f64,

    /// Without a rate: messages each publisher has on their way
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    window: u32,

    /// Length of a message, at least 40 bytes
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: ByteSize,

    /// Ask servers to deflate messages. Publishers send plain ones
    #[arg(long)]
    deflate: bool,

    /// Servers speak Socket.IO: messages are events named "message". For ws://host/socket.io/?EIO=4&transport=websocket
    #[arg(long, conflicts_with = "deflate")]
    socket_io: bool,

    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How long to publish before that
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    warmup: Duration,

    /// Further connections that never read: what do they cost the others?
    #[arg(long, value_name = "N", default_value_t = 0)]
    silent: usize,

    /// A process of the server on this machine, whose CPU time and memory are measured; repeatable. What a connection
    /// takes is told from 1,000 connections on
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// Allow servers that are not on this machine, within limits
    #[arg(long)]
    i_own_this_server: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let plan = match Plan::new(args).await {
        Ok(plan) => Arc::new(plan),
        Err(complaints) => {
            let (last, others) = complaints.split_last().context("a load is refused for a reason")?;
            others.iter().for_each(notice);
            return Ok(usage_error(last));
        }
    };
    let mut stop = Stop::listen()?;
    let progress = Progress::new();
    let connecting = dial::open_all(&plan, &progress);
    let crowd = tokio::select! {
        crowd = connecting => crowd?,
        () = stop.requested() => return Ok(ExitCode::FAILURE),
    };
    let load = Load::new(Arc::clone(&plan), crowd, progress)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let running = spawn_blocking({
        let stopped = Arc::clone(&stopped);
        move || load.run(&stopped)
    });
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        () = stop.requested() => {
            stopped.store(true, Ordering::Relaxed);
            tokio::select! {
                // What was heard until now is told.
                outcome = &mut running => outcome,
                () = stop.requested() => return Ok(ExitCode::FAILURE),
            }
        }
    };
    let report = Report::new(&plan, &outcome.context("the load's thread failed")??);
    let text = if json { serde_json::to_string(&report)? } else { table::render(&report) };
    print(&if json { json_for_output(&text) } else { text.as_str().into() })?;
    Ok(if report.is_true() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who does not read it (`echocast bench | head -3`) still gets the exit code.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    match writeln!(stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}
