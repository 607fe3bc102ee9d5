//! `echocast serve`: checks the settings, and runs a node until it is told to stop.

use std::io;
use std::process::ExitCode;

use echocast::config::{Complaints, Settings};
use echocast::node::Node;
use echocast::{shutdown, telemetry};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::exit;
use crate::show::line_for;

/// Run a node
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = match args.settings.validate() {
        Ok(config) => config,
        Err(complaints) => return Ok(reject(&complaints)),
    };
    // From here on there is a log, so problems are logged and not printed.
    let telemetry = telemetry::init(config.logs.format)?;
    use_small_pages();
    raise_file_limit();
    let broker = if config.redis.is_some() {
        "redis"
    } else {
        "embedded"
    };

    // Before the ports are open, because a signal from then on must drain the node.
    let stop = shutdown::on_signal()?;
    let node = Node::bind(config)?;
    let (listen, ops) = (node.address()?, node.ops_address()?);
    info!(version = echocast::VERSION, commit = echocast::COMMIT, %listen, %ops, broker, "serving");
    // Returns once the node has drained.
    let outcome = node.run(stop).await;
    // The last spans are of the drain itself, which is what an operator wants to see.
    telemetry.flush().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The state of clients is small and scattered. With huge pages an idle connection took 1,000 bytes
/// instead of 580 (10,000 of them), and a delivery took no less CPU.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        warn!("cannot turn off huge pages: {error}");
    }
}

/// A client is an open file. systemd and container runtimes usually allow 1,024, and many more if a
/// process asks for them.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}

#[expect(
    clippy::print_stderr,
    reason = "there is no log before the settings are known"
)]
fn reject(complaints: &Complaints) -> ExitCode {
    // A line for each complaint, which may quote what a file or a template put into a variable.
    for line in complaints.to_string().lines() {
        eprintln!("{}", line_for(&io::stderr(), line));
    }
    exit::usage()
}
