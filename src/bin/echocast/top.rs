//! `echocast top`: shows all replicas, from their ops ports. This file is its command line, and
//! decides when to ask and when to print.
//!
//! `fleet` finds and asks the replicas, `exposition` parses their metrics, and `report` computes
//! the figures. People see them as a `table`, on a `screen` if there is one.

mod cells;
mod exposition;
mod figures;
mod fleet;
mod histogram;
mod replica;
mod report;
mod screen;
mod table;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use url::Url;

use crate::connect::Stop;
use crate::exit::{success_if, usage_error};
use crate::ops;
use crate::show::{json_for_output, notice, print_line};
use fleet::Fleet;
use report::Report;
use screen::Screen;

/// Time between two samples, over which rates are computed.
const REFRESH: Duration = Duration::from_secs(1);

/// The ops port of a node without settings.
const DEFAULT_PORT: u16 = 8081;

const ABOUT: &str = "\
Shows one line for each replica and one for all of them, once a second: connections, messages and \
bytes in and out, the 99th percentile of relay and delivery latency, messages that wait for the \
broker, the broker with the round trip of a probe through it, and messages lost since the node \
started. Relay is from publish until this node has the message; delivery is until it is handed to \
the kernel. Latencies are read from histograms whose buckets double, up to 13 s. A terminal that \
is too narrow shows fewer columns. Press q or Ctrl-C to quit.

A host name with several addresses, as Compose services and headless Kubernetes services have, \
stands for all of them, and is looked up again and again. If it has IPv4 and IPv6 addresses, the \
IPv4 ones count.

If the output is no terminal, or with --once, it prints one table, or with --json one object, \
after a second. Exit code: 0 if every replica answered, else 1; 64 for an address that cannot be \
used.";

/// Watch all replicas at once
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(crate) struct Args {
    /// Ops ports: URLs, or HOST:PORT, or HOST if the port is 8081
    #[arg(default_value = "localhost:8081", value_name = "URL")]
    urls: Vec<String>,

    /// Print one table and exit
    #[arg(long)]
    once: bool,

    /// Print JSON: one object a line, one a second; with --once a single object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(urls) = parse(&args.urls) else {
        let problem = "an address of an ops port is a URL, HOST:PORT or HOST";
        return Ok(usage_error(problem));
    };
    let mut stop = Stop::listen()?;
    tokio::select! {
        ended = show(&args, Fleet::new(urls)) => ended,
        () = stop.requested() => Ok(ExitCode::SUCCESS),
    }
}

/// `None` if an address cannot be used. Every such address has got a notice.
fn parse(addresses: &[String]) -> Option<Vec<Url>> {
    let parsed: Vec<Option<Url>> = addresses.iter().map(|text| parse_one(text)).collect();
    parsed.into_iter().collect()
}

fn parse_one(address: &str) -> Option<Url> {
    ops::parse(&complete(address))
        .inspect_err(|error| notice(format_args!("{error:#}")))
        .ok()
}

/// Adds the parts of a URL that people leave out.
fn complete(text: &str) -> String {
    if text.contains("://") {
        text.to_owned()
    } else if has_port(text) {
        format!("http://{text}")
    } else {
        format!("http://{text}:{DEFAULT_PORT}")
    }
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

async fn show(args: &Args, fleet: Fleet) -> anyhow::Result<ExitCode> {
    if args.once || !(args.json || stdout().is_terminal()) {
        print_once(fleet, args.json).await
    } else if args.json {
        print_stream(fleet).await
    } else {
        watch(fleet).await
    }
}

/// Samples twice, a second apart, because one sample has no rates.
async fn print_once(mut fleet: Fleet, json: bool) -> anyhow::Result<ExitCode> {
    fleet.sample().await;
    sleep(REFRESH).await;
    fleet.sample().await;
    let report = fleet.report();
    // A reader that has read enough still gets the exit code.
    let _ = print_line(&to_text(&report, json)?)?;
    Ok(success_if(report.all_answer()))
}

fn to_text(report: &Report, json: bool) -> anyhow::Result<String> {
    if json {
        to_json(report)
    } else {
        Ok(table::render(report, None))
    }
}

/// Prints until the reader closes the pipe.
async fn print_stream(mut fleet: Fleet) -> anyhow::Result<ExitCode> {
    fleet.sample().await;
    let mut seconds = every_second();
    // The first tick comes at once, but the first rates need a second.
    seconds.tick().await;
    loop {
        seconds.tick().await;
        fleet.sample().await;
        if print_line(&to_json(&fleet.report())?)?.is_break() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Shows the table until the user quits. A replica that is slow to answer does not delay the
/// others.
async fn watch(mut fleet: Fleet) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::open()?;
    let mut seconds = every_second();
    loop {
        tokio::select! {
            _ = seconds.tick() => on_second(&mut fleet, &screen)?,
            () = fleet.answer() => {}
            () = screen.quit() => return Ok(ExitCode::SUCCESS),
        }
        if !fleet.is_asking() {
            screen.show(&fleet.report())?;
        }
    }
}

fn on_second(fleet: &mut Fleet, screen: &Screen) -> anyhow::Result<()> {
    // Some have not answered within a second: show those that have.
    if fleet.is_asking() {
        screen.show(&fleet.report())?;
    }
    fleet.ask();
    Ok(())
}

fn every_second() -> Interval {
    let mut seconds = interval(REFRESH);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds
}

fn to_json(report: &Report) -> anyhow::Result<String> {
    let json = serde_json::to_string(report)?;
    Ok(json_for_output(&json).into_owned())
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn parts_that_an_address_leaves_out_are_added() {
        for (text, url) in [
            ("node", "http://node:8081"),
            ("node:9000", "http://node:9000"),
            ("[::1]:9000", "http://[::1]:9000"),
            ("[::1]", "http://[::1]:8081"),
            ("http://node/ops", "http://node/ops"),
        ] {
            assert_eq!(complete(text), url);
        }
    }
}
