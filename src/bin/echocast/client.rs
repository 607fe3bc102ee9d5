//! `echocast client`: the client of the original demo. It connects, publishes its texts once,
//! prints every message, and stays. `connect` reconnects, and resumes where the client was.

use std::mem;
use std::ops::ControlFlow;
use std::process::ExitCode;

use tokio_tungstenite::tungstenite::Message;

use crate::connect::{
    Connection, DEFAULT_URL, Dialer, End, Event, Output, Stop, Target, TargetOptions, warning,
};
use crate::exit::{failure, usage_error};
use crate::show::notice;

/// Connects, publishes TEXT, prints every message, one a line, and reconnects for ever
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Server and channel: ws://, wss://, http(s)://, host:port, :port, or /channel on the default
    /// server
    #[arg(default_value = DEFAULT_URL, env = "ECHOCAST_URL")]
    url: String,

    /// Text to publish once, after the first connect; repeatable, in this order. '' publishes an
    /// empty message
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "client hello",
        allow_hyphen_values = true
    )]
    say: Vec<String>,

    /// Plain messages, as any server understands them. After a lost connection nothing is resumed
    /// or sent again
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
    let stop = Stop::listen()?;
    let mut dialer = Dialer::new(target, true)?;
    // Queued before the first connect, so a reconnect does not publish them again.
    for text in args.say {
        dialer.send(Message::text(text));
    }
    let mut client = Client {
        output: Output::new(),
        stop,
        leaving: false,
    };
    client.run(dialer).await
}

struct Client {
    output: Output,
    stop: Stop,
    /// Whether we have closed the connection.
    leaving: bool,
}

impl Client {
    async fn run(&mut self, mut dialer: Dialer) -> anyhow::Result<ExitCode> {
        while !self.leaving {
            let mut connection = match self.connect(&mut dialer).await {
                Some(Ok(connection)) => connection,
                Some(Err(rejection)) => return Ok(failure(&rejection)),
                None => break,
            };
            self.print_all(&mut connection).await?;
            // In any case, because it knows what was not acknowledged.
            let retry = dialer.ended(connection);
            if !self.leaving {
                notice(retry);
            }
        }
        warning(dialer.unacknowledged()).iter().for_each(notice);
        Ok(ExitCode::SUCCESS)
    }

    /// `None` if the user or the reader of our output has enough.
    async fn connect(&mut self, dialer: &mut Dialer) -> Option<Result<Connection, String>> {
        tokio::select! {
            connected = dialer.connect(notice) => Some(connected),
            () = self.output.reader_gone() => None,
            () = self.stop.requested() => None,
        }
    }

    /// Prints until the connection ends. The first stop closes it properly; a second one does not
    /// wait for that.
    async fn print_all(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        loop {
            let step = tokio::select! {
                event = connection.next() => self.on_event(event, connection)?,
                () = self.output.reader_gone(), if !self.leaving => self.leave(connection),
                () = self.stop.requested() => self.leave(connection),
            };
            if step.is_break() {
                return Ok(());
            }
        }
    }

    fn on_event(
        &mut self,
        event: Result<Event, End>,
        connection: &mut Connection,
    ) -> anyhow::Result<ControlFlow<()>> {
        match event {
            Ok(Event::Received(message)) => return self.print(&message, connection),
            // Missing messages, and texts that were not published. Notices do not mix with the
            // messages on standard output.
            Ok(event) => event.notice().iter().for_each(notice),
            Err(end) => {
                notice(end);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn print(
        &mut self,
        message: &Message,
        connection: &mut Connection,
    ) -> anyhow::Result<ControlFlow<()>> {
        let reader_is_gone = self.output.print(message)?.is_break();
        // While we are leaving, messages that nobody reads still arrive.
        if reader_is_gone && !self.leaving {
            return Ok(self.leave(connection));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Breaks if the connection is being closed already.
    fn leave(&mut self, connection: &mut Connection) -> ControlFlow<()> {
        if mem::replace(&mut self.leaving, true) {
            return ControlFlow::Break(());
        }
        connection.close(1000, "");
        ControlFlow::Continue(())
    }
}
