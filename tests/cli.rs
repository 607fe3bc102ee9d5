//! The command line as people and scripts use it: what it prints where, and what it exits with. A
//! file a subcommand.

mod settings;
mod serving;
mod bench;
mod client;
mod shell;
mod resume;
mod top;
mod terminal;

use crate::support::program::{Ended, Program, echocast};

/// What sysexits.h calls a usage error.
const USAGE: Option<i32> = Some(64);

/// Runs our binary to its end, with nothing on its input.
async fn run(arguments: &[&str]) -> Ended {
    Program::start(echocast(arguments)).finish().await
}
