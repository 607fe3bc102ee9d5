//! `echocast bench`: load and truth. This file is its order of events; its command line is in
//! `args`, what may be asked for is decided in `plan`, connections are opened by `dial`, the load
//! itself is `load`'s, and what it showed is told by `report` and `table`.

mod args;
mod plan;
mod dial;
mod entrance;
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

use anyhow::Context;
use tokio::task::spawn_blocking;

use crate::connect::{Stop, usage_error};
use crate::show::{json_for_output, notice};
pub(crate) use args::Args;
use load::Load;
use plan::Plan;
use progress::Progress;
use report::Report;

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let plan = match Plan::new(args).await {
        Ok(plan) => Arc::new(plan),
        Err(complaints) => {
            let (last, others) = complaints
                .split_last()
                .context("a load is refused for a reason")?;
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
    let text = if json {
        serde_json::to_string(&report)?
    } else {
        table::render(&report)
    };
    print(&if json {
        json_for_output(&text)
    } else {
        text.as_str().into()
    })?;
    Ok(if report.is_true() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Who does not read it (`echocast bench | head -3`) still gets the exit code.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    match writeln!(stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
