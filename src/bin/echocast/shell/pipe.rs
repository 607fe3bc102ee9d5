//! The shell without a terminal: lines in, messages out, and nothing else on standard output.
//!
//! It reconnects only if that loses nothing, because a script must learn that lines may not have
//! arrived.

use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::echoes::Echoes;
use super::lines::Lines;
use crate::connect::{Connection, Dialer, End, Event, Output, Stop, warning};
use crate::exit::{failure, success_if};
use crate::show::notice;

/// How long a line may take to come back, since the last progress.
const ECHO_WAIT: Duration = Duration::from_secs(2);
/// How long a line may take to be acknowledged, since the last progress. A server that acknowledges
/// will do so, even if its broker is away for a while.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// How long a script waits for a new connection.
const RECONNECT_WAIT: Duration = Duration::from_secs(60);

/// When to close after the last line.
pub(crate) enum Ending {
    /// Once all lines are acknowledged, and have come back if the server sends them back.
    Arrived {
        has_echo: bool,
    },
    /// Once all lines are acknowledged, and not before this time.
    After(Duration),
    Never,
}

/// Runs until a connection ends that cannot be replaced, or until we leave.
pub(crate) async fn run(
    mut dialer: Dialer,
    stop: Stop,
    lines: Lines,
    ending: Ending,
    show_ping_pong: bool,
) -> anyhow::Result<ExitCode> {
    let mut pipe = Pipe::new(stop, lines, ending, show_ping_pong);
    let mut connection = match pipe.dial(&mut dialer).await {
        Ok(connection) => connection,
        Err(code) => return Ok(code),
    };
    loop {
        let end = match pipe.exchange(&mut connection).await? {
            ControlFlow::Continue(end) => end,
            ControlFlow::Break(code) => return Ok(code),
        };
        connection = match pipe.replace(connection, &end, &mut dialer).await {
            Ok(connection) => connection,
            Err(code) => return Ok(code),
        };
    }
}

/// State that outlives a connection.
struct Pipe {
    stop: Stop,
    lines: Lines,
    ending: Ending,
    output: Output,
    show_ping_pong: bool,
    echoes: Echoes,
    /// Lines sent so far.
    sent: u64,
    input_ended: Option<Instant>,
    /// Whether we have closed the connection.
    leaving: bool,
    /// Whether a line could not be read or published.
    failed: bool,
}

/// `Continue` while the connection is open. `Break` with its end, or with our exit code.
type Step = ControlFlow<ControlFlow<ExitCode, End>>;

impl Pipe {
    fn new(stop: Stop, lines: Lines, ending: Ending, show_ping_pong: bool) -> Self {
        // Only then lines come back that can be waited for.
        let has_echo = matches!(ending, Ending::Arrived { has_echo: true });
        Self {
            stop,
            lines,
            ending,
            output: Output::new(),
            show_ping_pong,
            echoes: Echoes::new(has_echo),
            sent: 0,
            input_ended: None,
            leaving: false,
            failed: false,
        }
    }

    /// The first attempt is the only one, so that a script learns at once that its server is not
    /// there.
    async fn dial(&mut self, dialer: &mut Dialer) -> Result<Connection, ExitCode> {
        let dialed = tokio::select! {
            dialed = dialer.dial() => dialed,
            () = self.stop.requested() => return Err(ExitCode::FAILURE),
        };
        // No notice has named the server yet.
        dialed.map_err(|error| failure(&format!("{}: {error}", dialer.target())))
    }

    /// The next connection after one that has ended, or the exit code.
    async fn replace(
        &mut self,
        connection: Connection,
        end: &End,
        dialer: &mut Dialer,
    ) -> Result<Connection, ExitCode> {
        let resumes = connection.resumes();
        let retry = dialer.ended(connection);
        if self.leaving || !resumes {
            return Err(self.exit_code(end, resumes, dialer.unacknowledged()));
        }
        // The script goes on, so its user should know why it waits.
        notice(format_args!("{end}; {retry}"));
        match self.reconnect(dialer).await {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(problem)) => {
                let end = End::Lost(problem);
                Err(self.exit_code(&end, true, dialer.unacknowledged()))
            }
            None => Err(ExitCode::SUCCESS),
        }
    }

    /// `None` if nobody reads our output any more.
    async fn reconnect(&mut self, dialer: &mut Dialer) -> Option<Result<Connection, String>> {
        let connecting = timeout(RECONNECT_WAIT, dialer.connect(notice));
        tokio::select! {
            connected = connecting => Some(connected.unwrap_or_else(|_| Err(no_connection()))),
            () = self.output.reader_gone() => None,
            () = self.stop.requested() => Some(Err("stopped".to_owned())),
        }
    }

    /// Sends lines and prints messages until the connection ends, or until we have to exit at once.
    async fn exchange(
        &mut self,
        connection: &mut Connection,
    ) -> anyhow::Result<ControlFlow<ExitCode, End>> {
        // Time without a connection does not count.
        self.echoes.progress();
        loop {
            self.leave_if_arrived(connection);
            let deadline = self.deadline(connection);
            let may_read = self.may_read(connection);
            let step = tokio::select! {
                event = connection.next() => self.on_event(event)?,
                line = self.lines.recv(), if may_read => self.on_line(line, connection),
                () = wait_until(deadline) => self.on_deadline(connection),
                () = self.output.reader_gone() => exit(ExitCode::SUCCESS),
                () = self.stop.requested() => self.on_stop(connection),
            };
            if let ControlFlow::Break(outcome) = step {
                return Ok(outcome);
            }
        }
    }

    fn leave_if_arrived(&mut self, connection: &mut Connection) {
        let may_end = self.input_ended.is_some() && self.ending.waits_for_arrival();
        if may_end && self.has_arrived(connection) {
            self.leave(connection);
        }
    }

    /// Whether all lines sent so far are acknowledged, and have come back.
    fn has_arrived(&self, connection: &Connection) -> bool {
        connection.unacknowledged() == 0 && self.echoes.is_empty()
    }

    fn may_read(&self, connection: &Connection) -> bool {
        let has_room = connection.has_room() && self.echoes.has_room();
        self.input_ended.is_none() && !self.leaving && has_room
    }

    /// When to stop waiting if nothing happens.
    fn deadline(&self, connection: &Connection) -> Option<Instant> {
        if self.leaving {
            return None;
        }
        // Acknowledgements first: without one, no line can be called arrived.
        if connection.unacknowledged() > 0 {
            return Some(self.echoes.progress_at() + ACK_WAIT);
        }
        match self.ending {
            Ending::After(wait) => self.input_ended.map(|ended| ended + wait),
            // Before the end of the input only a full window waits for echoes.
            Ending::Arrived { .. } if self.input_ended.is_some() || !self.echoes.has_room() => {
                Some(self.echoes.progress_at() + ECHO_WAIT)
            }
            Ending::Arrived { .. } | Ending::Never => None,
        }
    }

    fn on_deadline(&mut self, connection: &mut Connection) -> Step {
        if connection.unacknowledged() == 0 && self.ending.waits_for_arrival() {
            self.echoes.give_up();
        } else {
            self.leave(connection);
        }
        ControlFlow::Continue(())
    }

    fn on_event(&mut self, event: Result<Event, End>) -> anyhow::Result<Step> {
        let event = match event {
            Ok(event) => event,
            Err(end) => return Ok(ControlFlow::Break(ControlFlow::Continue(end))),
        };
        event.notice().iter().for_each(notice);
        match event {
            Event::Received(message) => return self.on_message(&message),
            Event::NotPublished { message, .. } => self.on_failed(message.as_ref()),
            Event::Doubtful(message) => self.on_failed(Some(&message)),
            Event::Acknowledged | Event::Flushed => self.echoes.progress(),
            Event::Missing(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_message(&mut self, message: &Message) -> anyhow::Result<Step> {
        // A line of ours or a message of others: both are printed.
        self.echoes.received(message);
        if self.show_ping_pong {
            show_control(message);
        }
        if self.output.print(message)?.is_break() {
            return Ok(exit(ExitCode::SUCCESS));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_failed(&mut self, message: Option<&Message>) {
        self.failed = true;
        if let Some(message) = message {
            self.echoes.forget(message);
        }
    }

    fn on_line(&mut self, line: Option<io::Result<Message>>, connection: &mut Connection) -> Step {
        match line {
            Some(Ok(line)) => self.send(line, connection),
            Some(Err(error)) => {
                notice(format_args!("cannot read standard input: {error}"));
                self.failed = true;
                self.input_ended = Some(Instant::now());
            }
            None => self.input_ended = Some(Instant::now()),
        }
        ControlFlow::Continue(())
    }

    fn send(&mut self, line: Message, connection: &mut Connection) {
        self.sent += 1;
        // Before it is sent, because the echo may be the next event.
        self.echoes.sent(&line);
        connection.send(line);
    }

    /// The first stop closes the connection properly; a second one does not wait for that.
    fn on_stop(&mut self, connection: &mut Connection) -> Step {
        if self.leaving {
            return exit(ExitCode::FAILURE);
        }
        self.leave(connection);
        ControlFlow::Continue(())
    }

    fn leave(&mut self, connection: &mut Connection) {
        if !mem::replace(&mut self.leaving, true) {
            connection.close(1000, "");
        }
    }

    /// The exit code after the last connection. If the server acknowledges, it is known which lines
    /// have arrived.
    fn exit_code(&self, end: &End, acknowledges: bool, unacknowledged: usize) -> ExitCode {
        let has_arrived = if acknowledges {
            unacknowledged == 0
        } else {
            self.echoes.is_empty() && matches!(end, End::Closed(_))
        };
        // Every line is accounted for, but some may have been rejected.
        if self.leaving && has_arrived {
            return success_if(!self.failed);
        }
        let doubts = warning(unacknowledged);
        let doubts = doubts.unwrap_or_else(|| self.doubts(acknowledges));
        failure(&format!("{end}; {doubts}"))
    }

    fn doubts(&self, acknowledges: bool) -> String {
        let sent = self.sent;
        if acknowledges {
            return format!("all {sent} messages sent have arrived");
        }
        let echoes = &self.echoes;
        format!("of {sent} messages sent, some may not have arrived{echoes}")
    }
}

impl Ending {
    fn waits_for_arrival(&self) -> bool {
        matches!(self, Self::Arrived { .. })
    }
}

fn exit(code: ExitCode) -> Step {
    ControlFlow::Break(ControlFlow::Break(code))
}

fn no_connection() -> String {
    format!("no connection for {} s", RECONNECT_WAIT.as_secs())
}

/// Never returns without a deadline.
async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn show_control(message: &Message) {
    match message {
        Message::Ping(_) => notice("ping"),
        Message::Pong(_) => notice("pong"),
        _ => {}
    }
}
