//! `echocast shell`: the hands-on client. This file is its command line and chooses between the two
//! ways it works: `interactive` at a terminal, `pipe` everywhere else.

mod command;
mod interactive;
mod pipe;
mod screen;
mod terminal;
mod unheard;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use crate::connect::{DEFAULT_URL, Dialer, Stop, Target, TargetOptions, usage_error};
use pipe::Ending;

const PIPES: &str = "\
At a terminal, /help lists the slash commands.

From a pipe it says each line as it is, slash or not, and prints messages bare. After the last line it waits until all \
are acknowledged and its own lines have come back, at most 2 seconds after the last that did, and closes: `echo hi | \
echocast shell` says hi and prints hi. Exit 0 means that all lines have arrived.

After a lost connection it goes on where it was: what was said meanwhile is heard, and what was not acknowledged is \
said again, which the server keeps once. From a pipe it tries to come back for a minute.

With --raw, with -s, and where the server is of another kind, nothing is acknowledged: there a lost connection ends a \
pipe with exit 1, and at a terminal what was said meanwhile is not heard.";

/// Type a line to say it; what is heard appears above the prompt. Takes wscat's common flags.
#[derive(Debug, clap::Args)]
#[command(after_help = PIPES)]
pub(crate) struct Args {
    /// Server and channel: ws://, wss://, http(s)://, host:port, :port, or /channel on the default
    /// server
    #[arg(default_value = DEFAULT_URL, env = "ECHOCAST_URL")]
    url: String,

    /// The URL, as wscat takes it
    #[arg(short, long, value_name = "URL", conflicts_with = "url")]
    connect: Option<String>,

    /// Header of the handshake, 'Name: value'; repeatable
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,

    /// Subprotocol to offer, and then as --raw; repeatable, in order of preference
    #[arg(short, long, value_name = "NAME")]
    subprotocol: Vec<String>,

    /// Messages only, as any server speaks: nothing is resumed, acknowledged or said again after a
    /// lost connection
    #[arg(long)]
    raw: bool,

    /// Origin header of the handshake
    #[arg(short, long)]
    origin: Option<String>,

    /// HTTP basic authentication
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Option<String>,

    /// Say TEXT once connected, wait (see --wait) and leave; repeatable
    #[arg(short = 'x', long, value_name = "TEXT", allow_hyphen_values = true)]
    execute: Vec<String>,

    /// Seconds to wait after --execute; -1 stays
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        default_value_t = 2.0,
        allow_negative_numbers = true
    )]
    wait: f64,

    /// Tell of pings and pongs
    #[arg(short = 'P', long)]
    show_ping_pong: bool,

    /// Accept any TLS certificate
    #[arg(short, long)]
    no_check: bool,

    /// Accepted for wscat's sake: slash commands are always on at a terminal
    #[arg(long)]
    slash: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = TargetOptions {
        headers: args.header,
        subprotocols: args.subprotocol,
        raw: args.raw,
        origin: args.origin,
        auth: args.auth,
    };
    let target = match Target::new(args.connect.as_deref().unwrap_or(&args.url), options) {
        Ok(target) => target,
        Err(problem) => return Ok(usage_error(&problem)),
    };
    // As in wscat, any negative number of seconds is "for ever".
    let stay = args.wait < 0.0;
    let wait = match Duration::try_from_secs_f64(args.wait.max(0.0)) {
        Ok(wait) => wait,
        Err(error) => return Ok(usage_error(&format!("--wait {}: {error}", args.wait))),
    };

    let stop = Stop::listen()?;
    let dialer = Dialer::new(target.clone(), !args.no_check)?;
    let one_shot = !args.execute.is_empty() && !stay;
    if !one_shot && io::stdin().is_terminal() && io::stdout().is_terminal() {
        return interactive::run(dialer, stop, args.execute, args.show_ping_pong).await;
    }
    let ending = match (args.execute.is_empty(), stay) {
        (true, _) => Ending::Arrived {
            heard_back: target.hears_itself(),
        },
        (false, true) => Ending::Never,
        (false, false) => Ending::After(wait),
    };
    let lines = pipe::lines(args.execute, !one_shot);
    pipe::run(dialer, stop, lines, ending, args.show_ping_pong).await
}
