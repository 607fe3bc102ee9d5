//! `echocast client`: the lecture's client. Connects, says its texts once, prints what it hears,
//! and stays. How it connects, when it tries again and how it goes on where it was is `connect`'s.

use std::process::ExitCode;

use tokio_tungstenite::tungstenite::Message;

use crate::connect::{
    Connection, DEFAULT_URL, Dialer, Event, Output, Stop, Target, TargetOptions, doubtful,
    usage_error,
};
use crate::show::notice;

/// Connects, says TEXT, prints every message, one a line, and reconnects for ever.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Server and channel: ws://, wss://, http(s)://, host:port, :port, or /channel on the default
    /// server
    #[arg(default_value = DEFAULT_URL, env = "ECHOCAST_URL")]
    url: String,

    /// Said once, after the first connect; repeat it to say more, in this order; '' says an empty
    /// message
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "client hello",
        allow_hyphen_values = true
    )]
    say: Vec<String>,

    /// Messages only, as any server speaks: nothing is resumed, acknowledged or said again after a
    /// lost connection
    #[arg(long)]
    raw: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = TargetOptions {
        raw: args.raw,
        ..TargetOptions::default()
    };
    let target = match Target::new(&args.url, options) {
        Ok(target) => target,
        Err(problem) => return Ok(usage_error(&problem)),
    };
    let mut stop = Stop::listen()?;
    let mut dialer = Dialer::new(target, true)?;
    let output = Output::new();
    for text in args.say {
        dialer.say(Message::text(text));
    }
    loop {
        let connected = tokio::select! {
            connected = dialer.connect(notice) => connected,
            () = output.unread() => break,
            () = stop.requested() => break,
        };
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(refusal) => {
                notice(refusal);
                return Ok(ExitCode::FAILURE);
            }
        };
        let left = listen(&mut connection, &output, &mut stop).await?;
        let retry = dialer.ended(connection);
        match left {
            Left::ByUs => break,
            Left::ByServer => notice(retry),
        }
    }
    if let Some(words) = doubtful(dialer.unacknowledged()) {
        notice(words);
    }
    Ok(ExitCode::SUCCESS)
}

enum Left {
    ByUs,
    ByServer,
}

/// Prints until the connection ends. The first stop closes it properly, a second one does not wait
/// for that.
async fn listen(
    connection: &mut Connection,
    output: &Output,
    stop: &mut Stop,
) -> anyhow::Result<Left> {
    let mut leaving = false;
    loop {
        let leave = tokio::select! {
            event = connection.next() => match event {
                Ok(Event::Heard(message)) => output.print(&message)?.is_break(),
                Ok(event) => {
                    event.words().into_iter().for_each(notice);
                    false
                }
                Err(end) => {
                    notice(end.to_string());
                    return Ok(if leaving { Left::ByUs } else { Left::ByServer });
                }
            },
            () = output.unread(), if !leaving => true,
            () = stop.requested() => {
                if leaving {
                    return Ok(Left::ByUs);
                }
                true
            }
        };
        if leave && !leaving {
            leaving = true;
            connection.close(1000, "");
        }
    }
}
