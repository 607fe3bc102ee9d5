//! `echocast top`: all replicas at a glance, from their ops ports. This file is its command line
//! and its rhythm; who the replicas are and how they answer is `fleet`'s, what their metrics say is
//! read by `exposition` and told by `report`, and people see it as a `table`, on a `screen` if
//! there is one.

mod exposition;
mod fleet;
mod report;
mod screen;
mod table;

use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::connect::{Stop, usage_error};
use crate::ops;
use crate::show::{json_for_output, notice};
use fleet::Fleet;
use report::Report;
use screen::Screen;

/// Rates are those of this time.
const REFRESH: Duration = Duration::from_secs(1);

const ABOUT: &str = "\
A line for each replica and one for all of them, once a second: connections, what comes in and goes out, the time within \
which 99 of 100 batches were relayed and delivered (relay: from publish until this node has it; delivery: until it is \
handed to the kernel), messages waiting for the broker, the broker and a probe's way through it, messages lost since the \
node started. Latencies are read from histograms whose buckets double, up to 13 s. A terminal that is too narrow gets \
fewer columns. q or Ctrl-C ends it.

A host with several addresses, as a Compose service or a headless Kubernetes service has, is all of them, looked up \
again and again; of a host with addresses of both families those of IPv4 count.

Where the output is no terminal, or with --once: one table, or with --json one object, after a second. Exit 0 if every \
replica answered, else 1; 64 for an address that cannot be used.";

/// Watch all replicas at once.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(crate) struct Args {
    /// Ops ports: URLs, or HOST:PORT, or HOST if the port is 8081
    #[arg(default_value = "localhost:8081", value_name = "URL")]
    urls: Vec<String>,

    /// Print one table and end
    #[arg(long)]
    once: bool,

    /// Print JSON: an object a line, one a second; with --once a single one
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut urls = Vec::new();
    for text in &args.urls {
        match ops::parse(&full(text)) {
            Ok(url) => urls.push(url),
            Err(error) => notice(format_args!("{error:#}")),
        }
    }
    if urls.len() < args.urls.len() {
        return Ok(usage_error(
            "an address of an ops port is a URL, HOST:PORT or HOST",
        ));
    }
    let mut stop = Stop::listen()?;
    let fleet = Fleet::new(urls);
    let watching = async {
        match (
            args.json,
            args.once || !(args.json || stdout().is_terminal()),
        ) {
            (json, true) => once(fleet, json).await,
            (true, false) => stream(fleet).await,
            (false, false) => watch(fleet).await,
        }
    };
    tokio::select! {
        ended = watching => ended,
        () = stop.requested() => Ok(ExitCode::SUCCESS),
    }
}

/// What people leave out.
fn full(text: &str) -> String {
    match text {
        _ if text.contains("://") => text.to_owned(),
        _ if text
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            format!("http://{text}")
        }
        _ => format!("http://{text}:8081"),
    }
}

/// Two looks, a second apart, or there would be no rates.
async fn once(mut fleet: Fleet, json: bool) -> anyhow::Result<ExitCode> {
    fleet.look().await;
    sleep(REFRESH).await;
    fleet.look().await;
    let report = fleet.report();
    // Who reads no more still gets the exit code.
    let _ = if json {
        print_json(&report)?
    } else {
        print(&table::render(&report, None))?
    };
    Ok(if report.all_answer() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Until nobody reads it any more.
async fn stream(mut fleet: Fleet) -> anyhow::Result<ExitCode> {
    fleet.look().await;
    let mut seconds = interval(REFRESH);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    loop {
        seconds.tick().await;
        fleet.look().await;
        if print_json(&fleet.report())?.is_break() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Until the user has enough. A replica that takes long to answer does not keep the others from
/// being shown.
async fn watch(mut fleet: Fleet) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::open()?;
    let mut seconds = interval(REFRESH);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = seconds.tick() => {
                if fleet.is_asking() {
                    screen.show(&fleet.report())?;
                }
                fleet.ask();
            }
            () = fleet.answer() => {}
            () = screen.enough() => return Ok(ExitCode::SUCCESS),
        }
        if !fleet.is_asking() {
            screen.show(&fleet.report())?;
        }
    }
}

fn print_json(report: &Report) -> anyhow::Result<ControlFlow<()>> {
    print(&json_for_output(&serde_json::to_string(report)?))
}

/// Breaks when the reader has enough.
fn print(text: &str) -> anyhow::Result<ControlFlow<()>> {
    let mut output = stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::full;

    #[test]
    fn what_is_left_out_of_an_address_is_added() {
        for (text, url) in [
            ("node", "http://node:8081"),
            ("node:9000", "http://node:9000"),
            ("[::1]:9000", "http://[::1]:9000"),
            ("[::1]", "http://[::1]:8081"),
            ("http://node/ops", "http://node/ops"),
        ] {
            assert_eq!(full(text), url);
        }
    }
}
