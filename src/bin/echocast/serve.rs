//! `echocast serve`: settings in, a node that runs until it is told to stop.

use std::process::ExitCode;

use echocast::config::Settings;
use echocast::node::Node;
use echocast::{shutdown, telemetry};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::show::line_for;

/// Run a node.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = match args.settings.validate() {
        Ok(config) => config,
        Err(complaints) => return Ok(refuse(&complaints)),
    };
    let telemetry = telemetry::init(config.logs.format)?;
    use_small_pages();
    let broker = if config.redis.is_some() {
        "redis"
    } else {
        "embedded"
    };
    // Before the ports are open: a signal from then on drains.
    let stop = shutdown::on_signal()?;
    take_all_files();
    let node = Node::bind(config)?;
    let (listen, ops) = (node.address()?, node.ops_address()?);
    info!(version = echocast::VERSION, commit = echocast::COMMIT, %listen, %ops, broker, "serving");
    let outcome = node.run(stop).await;
    telemetry.flush().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// What clients hold is small and scattered: in huge pages an idle connection took 1,000 bytes
/// instead of 580 (10,000 of them), for no less CPU a delivery.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        warn!("cannot do without huge pages: {error}");
    }
}

/// A client is an open file. systemd and container runtimes mostly let a process have 1,024 and
/// take far more if it asks.
fn take_all_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}

#[expect(
    clippy::print_stderr,
    reason = "there are no logs before the settings are known"
)]
fn refuse(complaints: &echocast::config::Complaints) -> ExitCode {
    // A line a complaint, which may quote what a file or a template has put into a variable.
    for line in complaints.to_string().lines() {
        eprintln!("{}", line_for(&std::io::stderr(), line));
    }
    ExitCode::from(crate::USAGE)
}
