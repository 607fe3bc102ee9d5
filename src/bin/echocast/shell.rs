//! `echocast shell`: the interactive client. This file is its command line, and chooses between the
//! two ways it works: `interactive` at a terminal, `pipe` everywhere else.

mod command;
mod echoes;
mod history;
mod interactive;
mod lines;
mod pings;
mod pipe;
mod screen;
mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use crate::connect::{DEFAULT_URL, Dialer, Stop, Target, TargetOptions};
use crate::exit::usage_error;
use pipe::Ending;

const PIPES: &str = "\
At a terminal, /help lists the slash commands.

From a pipe, every line is published as it is, even if it begins with a slash, and messages are \
printed bare. After the last line it waits until all lines are acknowledged and have come back, \
but no longer than 2 seconds without one coming back. Then it closes: `echo hi | echocast shell` \
publishes hi and prints hi. Exit code 0 means that all lines have arrived.

After a lost connection it reconnects and resumes: messages of the meantime are received, and \
lines that were not acknowledged are sent again, of which the server keeps each once. From a pipe \
it tries for a minute.

With --raw or -s, and with other servers, nothing is acknowledged. Then a lost connection ends a \
pipe with exit code 1, and at a terminal the messages of the meantime are missing.";

/// Type a line to publish it; messages appear above the prompt. Takes wscat's common flags
#[derive(Debug, clap::Args)]
#[command(after_help = PIPES)]
pub(crate) struct Args {
    /// Server and channel: ws://, wss://, http(s)://, host:port, :port, or /channel on the default
    /// server
    #[arg(default_value = DEFAULT_URL, env = "ECHOCAST_URL")]
    url: String,

    /// The URL, given as wscat takes it
    #[arg(short, long, value_name = "URL", conflicts_with = "url")]
    connect: Option<String>,

    /// Header of the handshake, 'Name: value'; repeatable
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,

    /// Subprotocol to offer; repeatable, in order of preference. Implies --raw
    #[arg(short, long, value_name = "NAME")]
    subprotocol: Vec<String>,

    /// Plain messages, as any server understands them. After a lost connection nothing is resumed
    /// or sent again
    #[arg(long)]
    raw: bool,

    /// Origin header of the handshake
    #[arg(short, long)]
    origin: Option<String>,

    /// HTTP basic authentication
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Option<String>,

    /// Publish TEXT once connected, wait (see --wait) and quit; repeatable
    #[arg(short = 'x', long, value_name = "TEXT", allow_hyphen_values = true)]
    execute: Vec<String>,

    /// Seconds to wait after --execute; -1 stays connected
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        default_value_t = 2.0,
        allow_negative_numbers = true
    )]
    wait: f64,

    /// Show pings and pongs
    #[arg(short = 'P', long)]
    show_ping_pong: bool,

    /// Accept any TLS certificate
    #[arg(short, long)]
    no_check: bool,

    /// Accepted because wscat has it: at a terminal, slash commands are always on
    #[arg(long)]
    slash: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let target = match args.target() {
        Ok(target) => target,
        Err(problem) => return Ok(usage_error(&problem)),
    };
    let ending = match args.ending(&target) {
        Ok(ending) => ending,
        Err(problem) => return Ok(usage_error(&problem)),
    };
    let stop = Stop::listen()?;
    let dialer = Dialer::new(target, !args.no_check)?;
    // With --execute the texts are all there is to do, unless it stays connected.
    let reads_input = args.execute.is_empty() || args.stays();
    if reads_input && io::stdin().is_terminal() && io::stdout().is_terminal() {
        return interactive::run(dialer, stop, args.execute, args.show_ping_pong).await;
    }
    // The texts are published like lines, before any line of the input.
    let lines = lines::read(args.execute, reads_input);
    pipe::run(dialer, stop, lines, ending, args.show_ping_pong).await
}

impl Args {
    fn target(&self) -> Result<Target, String> {
        let options = TargetOptions {
            headers: self.header.clone(),
            subprotocols: self.subprotocol.clone(),
            raw: self.raw,
            origin: self.origin.clone(),
            auth: self.auth.clone(),
        };
        Target::new(self.connect.as_deref().unwrap_or(&self.url), options)
    }

    /// As in wscat, any negative number of seconds means "for ever".
    fn stays(&self) -> bool {
        self.wait < 0.0
    }

    /// When a pipe ends.
    fn ending(&self, target: &Target) -> Result<Ending, String> {
        if self.stays() && !self.execute.is_empty() {
            return Ok(Ending::Never);
        }
        let wait = self.wait()?;
        if !self.execute.is_empty() {
            return Ok(Ending::After(wait));
        }
        let has_echo = target.has_echo();
        Ok(Ending::Arrived { has_echo })
    }

    fn wait(&self) -> Result<Duration, String> {
        let seconds = if self.stays() { 0.0 } else { self.wait };
        Duration::try_from_secs_f64(seconds)
            .map_err(|error| format!("--wait {}: {error}", self.wait))
    }
}
