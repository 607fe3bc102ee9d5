//! The command line: parses, dispatches and sets the exit code. Each subcommand is a file of its
//! own.

mod bench;
mod client;
mod connect;
mod exit;
mod health;
mod ops;
mod serve;
mod shell;
mod show;
mod top;

use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

/// mimalloc: several threads allocate small batches and free each other's, at which glibc's
/// allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every second task comes from the queue that all workers share. A worker's own queue holds 256
/// tasks. If a thousand readers are woken together, the rest go to the shared queue. By default
/// workers look there so rarely that some readers wait for many turns. The slowest 1 % of
/// deliveries took 6 times as long then (with 500 readers; 13 times with 1,000), for a quarter less
/// CPU.
const SHARED_QUEUE_INTERVAL: u32 = 2;

/// Sockets outside of shards, such as the broker's, are polled after this many tasks. The default
/// is 61, and each of these tasks may be a shard's turn of a millisecond.
const EVENT_INTERVAL: u32 = 4;

/// How to use a node without this program.
const BY_HAND: &str = "\
With curl:
  curl -N -H 'Accept: text/event-stream' localhost:8080/news         subscribe
  curl -d hello localhost:8080/news                                  publish
  curl -d '{}' -H 'Echocast-Kind: binary' localhost:8080/news        publish as binary
  curl -H 'Accept: application/json' 'localhost:8080/news?last=10'   read the last 10 messages
Without Echocast-Kind, a body is text if it is UTF-8.";

/// A WebSocket broadcast service: a message that one client sends on a path reaches every client of
/// that path, on every replica, in the same order.
#[derive(Parser)]
#[command(name = "echocast", version = version(), max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, after_help = after_help())]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node (the default without a subcommand)
    #[command(after_help = BY_HAND)]
    Serve(Box<serve::Args>),
    /// Connect, publish a text, print every message
    Client(client::Args),
    /// Publish and read messages interactively, or through a pipe
    Shell(shell::Args),
    /// Measure a server, and check that all its clients receive the same
    Bench(bench::Args),
    /// Watch all replicas at once
    Top(top::Args),
    /// Ask the local node whether it is ready
    Health(health::Args),
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(args) => serve::run(*args).await,
            Self::Client(args) => client::run(args).await,
            Self::Shell(args) => shell::run(args).await,
            Self::Bench(args) => bench::run(args).await,
            Self::Top(args) => top::run(args).await,
            Self::Health(args) => health::run(args).await,
        }
    }
}

impl Arguments {
    fn command(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}

fn after_help() -> String {
    format!(
        "Without a subcommand, echocast runs a node. Every flag of a node can also be set by an \
         environment variable.\n\n{BY_HAND}"
    )
}

fn version() -> String {
    format!("{} ({})", echocast::VERSION, echocast::COMMIT)
}

fn main() -> ExitCode {
    // Parsed before the runtime starts, because a mistake on the command line needs no threads.
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command(),
        Err(error) => return help_or_usage(&error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&format!("cannot start the runtime: {error}")),
    };
    let result = runtime.block_on(command.run());
    // A thread may still wait for a line of standard input, and must not delay the exit.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| exit::failure(&format!("{error:#}")))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .global_queue_interval(SHARED_QUEUE_INTERVAL)
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
}

/// Help and version were asked for, so they are no error. Everything else is a usage error.
fn help_or_usage(error: &clap::Error) -> ExitCode {
    let was_asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    match error.print() {
        Ok(()) if was_asked_for => ExitCode::SUCCESS,
        // If it cannot be printed, the exit code is all that is left.
        _ => exit::usage(),
    }
}
