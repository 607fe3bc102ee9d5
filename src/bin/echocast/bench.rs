//! `echocast bench`: puts a load on servers and checks every delivery.
//!
//! This file runs the steps in order. `args` is the command line and `plan` checks it. `dial` opens
//! the connections, `load` runs the load on them, and `report` and `table` present the result.

mod args;
mod plan;
mod dial;
mod socket_io;
mod dialect;
mod load;
mod sockets;
mod outcome;
mod connection;
mod publisher;
mod template;
mod frames;
mod inflate;
mod stamp;
mod tally;
mod sequence;
mod processes;
mod progress;
mod monitor;
mod report;
mod histogram;
mod table;
mod bars;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::connect::Stop;
use crate::exit::{success_if, usage_error};
use crate::show::{json_for_output, notice, print_line};
pub(crate) use args::Args;
use load::Load;
use outcome::Outcome;
use plan::Plan;
use progress::Progress;
use report::Report;

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let plan = match Plan::new(args).await {
        Ok(plan) => Arc::new(plan),
        Err(complaints) => return reject(&complaints),
    };
    // From here on Ctrl-C is a request, and no longer ends the process.
    let mut stop = Stop::listen()?;
    let Some(load) = connect(Arc::clone(&plan), &mut stop).await? else {
        return Ok(ExitCode::FAILURE);
    };
    let Some(outcome) = run_until_stopped(load, &mut stop).await? else {
        return Ok(ExitCode::FAILURE);
    };
    // A load that was stopped early is reported like any other, with a note.
    let report = Report::new(&plan, &outcome);
    // A reader that has read enough (`echocast bench | head -3`) still gets the exit code.
    let _ = print_line(render(&report, json)?.trim_end())?;
    Ok(success_if(report.ok))
}

/// `None` after a stop: until all connections are open there is nothing to report.
async fn connect(plan: Arc<Plan>, stop: &mut Stop) -> anyhow::Result<Option<Load>> {
    let progress = Progress::new();
    let opened = tokio::select! {
        opened = dial::open_all(&plan, &progress) => opened?,
        () = stop.requested() => return Ok(None),
    };
    Load::new(plan, opened, progress).map(Some)
}

/// Prints all complaints, so that a command line can be corrected in one go.
fn reject(complaints: &[String]) -> anyhow::Result<ExitCode> {
    let (last, others) = complaints.split_last().context("no complaint")?;
    others.iter().for_each(notice);
    Ok(usage_error(last))
}

/// Runs the load on a thread of its own, because it blocks. `None` after a second stop.
async fn run_until_stopped(load: Load, stop: &mut Stop) -> anyhow::Result<Option<Outcome>> {
    let stopped = Arc::new(AtomicBool::new(false));
    let seen_by_load = Arc::clone(&stopped);
    let mut running = spawn_blocking(move || load.run(&seen_by_load));
    if let Some(outcome) = finish_or_stop(&mut running, stop).await? {
        return Ok(Some(outcome));
    }
    // The first stop ends the load early. It drains, and reports what it has measured until then.
    stopped.store(true, Ordering::Relaxed);
    finish_or_stop(&mut running, stop).await
}

/// `None` if a stop is requested before the load has finished.
async fn finish_or_stop(
    running: &mut JoinHandle<anyhow::Result<Outcome>>,
    stop: &mut Stop,
) -> anyhow::Result<Option<Outcome>> {
    tokio::select! {
        outcome = running => outcome.context("the load's thread failed")?.map(Some),
        () = stop.requested() => Ok(None),
    }
}

fn render(report: &Report, json: bool) -> anyhow::Result<String> {
    if !json {
        return Ok(table::render(report));
    }
    let text = serde_json::to_string(report)?;
    Ok(json_for_output(&text).into_owned())
}
