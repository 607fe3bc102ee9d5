//! The command line: parses, dispatches and sets the exit code. Each subcommand is a file of its
//! own.

mod bench;
mod client;
mod connect;
mod health;
mod ops;
mod serve;
mod shell;
mod show;
mod top;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

/// mimalloc: several threads allocate small batches and free each other's, at which glibc's
/// allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What sysexits.h calls a usage error: settings that cannot be used.
const USAGE: u8 = 64;

/// Requests for people: they need nothing of ours.
const BY_HAND: &str = "\
With curl:
  curl -N -H 'Accept: text/event-stream' localhost:8080/news         listen
  curl -d hello localhost:8080/news                                  publish
  curl -d '{}' -H 'Echocast-Kind: binary' localhost:8080/news        as binary
  curl -H 'Accept: application/json' 'localhost:8080/news?last=10'   look
Without Echocast-Kind, a body is text if it is UTF-8.";

/// What one client says, every client on every replica hears, in the same order.
#[derive(Parser)]
#[command(name = "echocast", version = version(), max_term_width = 100, args_conflicts_with_subcommands = true)]
#[command(after_help = after_help())]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node (what happens without a subcommand, too)
    #[command(after_help = BY_HAND)]
    Serve(Box<serve::Args>),
    /// Connect, say something, print every message
    Client(client::Args),
    /// Talk by hand, or from a pipe
    Shell(shell::Args),
    /// Measure a server, and check that it tells everybody the same
    Bench(bench::Args),
    /// Watch all replicas at once
    Top(top::Args),
    /// Ask the local node whether it is ready
    Health(health::Args),
}

fn after_help() -> String {
    format!(
        "Without a subcommand it serves. Every flag of a node is also an environment variable.\n\n{BY_HAND}"
    )
}

fn version() -> String {
    format!("{} ({})", echocast::VERSION, echocast::COMMIT)
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let command = arguments
        .command
        .unwrap_or_else(|| Command::Serve(Box::new(arguments.serve)));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            return complain(&anyhow::Error::new(error).context("cannot start the runtime"));
        }
    };
    let result = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Client(args) => client::run(args).await,
            Command::Shell(args) => shell::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Top(args) => top::run(args).await,
            Command::Health(args) => health::run(args).await,
        }
    });
    // A thread may still wait for a line of standard input: that must not keep the process.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| complain(&error))
}

/// Every second task comes from the queue that workers share. A worker's own queue holds 256; of a
/// thousand readers woken together the others go to the shared one, which by default is looked at
/// so seldom that some wait for many turns: the slowest hundredth of deliveries took 6 times as
/// long (500 readers; 13 times with 1,000), for a quarter less CPU.
const SHARED_QUEUE_INTERVAL: u32 = 2;

/// Sockets that are not in a shard, the broker's among them, are looked at after this many tasks:
/// one of these may be a shard's turn of a millisecond, and the default is 61.
const EVENT_INTERVAL: u32 = 4;

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .global_queue_interval(SHARED_QUEUE_INTERVAL)
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
}

/// Help and version are answers; everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let answer = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    match error.print() {
        Ok(()) if answer => ExitCode::SUCCESS,
        // Where it cannot be printed it cannot be read either; the code says it.
        _ => ExitCode::from(USAGE),
    }
}

fn complain(error: &anyhow::Error) -> ExitCode {
    show::notice(format_args!("{error:#}"));
    ExitCode::FAILURE
}
