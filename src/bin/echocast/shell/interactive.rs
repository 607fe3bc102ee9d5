//! The shell at a terminal: carries out typed lines, shows messages, and keeps a connection.
//! Editing lines belongs to `terminal`, and their meaning to `command`.

use std::ops::ControlFlow;
use std::process::ExitCode;

use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::command::{self, Command, HELP};
use super::pings::Pings;
use super::screen::Screen;
use super::terminal::{self, Keyboard, Typed};
use crate::connect::{Connection, Dialer, End, Event, Stop, shown, warning};
use crate::exit::failure;
use crate::show::notice;

/// Lines that are kept without a connection, with those before that are not acknowledged.
const KEPT_LINES: usize = 100;

pub(crate) async fn run(
    dialer: Dialer,
    stop: Stop,
    texts: Vec<String>,
    show_ping_pong: bool,
) -> anyhow::Result<ExitCode> {
    let mut shell = Shell::new(dialer, stop, show_ping_pong)?;
    for text in texts {
        shell.dialer.send(Message::text(text));
    }
    let exit = shell.run().await;
    let doubts = warning(shell.dialer.unacknowledged());
    // Give the terminal back first, or these notices would be lost in a prompt.
    drop(shell);
    doubts.iter().for_each(notice);
    Ok(exit.code())
}

struct Shell {
    dialer: Dialer,
    stop: Stop,
    keyboard: Keyboard,
    screen: Screen,
    pings: Pings,
    show_ping_pong: bool,
    /// Set once we have closed the connection.
    closing: Option<Closing>,
}

/// The next step once the connection that we close has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Closing {
    Exit,
    Reconnect,
}

/// Why the shell ends.
enum Exit {
    Quit,
    /// The connection ended after we closed it: how.
    Closed(String),
    /// The server rejected us.
    Rejected(String),
}

impl Exit {
    fn code(self) -> ExitCode {
        match self {
            Self::Quit => ExitCode::SUCCESS,
            Self::Closed(answer) => {
                notice(answer);
                ExitCode::SUCCESS
            }
            Self::Rejected(reason) => failure(&reason),
        }
    }
}

impl Shell {
    fn new(dialer: Dialer, stop: Stop, show_ping_pong: bool) -> anyhow::Result<Self> {
        let (keyboard, screen) = terminal::open()?;
        Ok(Self {
            dialer,
            stop,
            keyboard,
            screen,
            pings: Pings::default(),
            show_ping_pong,
            closing: None,
        })
    }

    async fn run(&mut self) -> Exit {
        loop {
            match self.one_connection().await {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(exit) => return exit,
            }
        }
    }

    async fn one_connection(&mut self) -> ControlFlow<Exit> {
        let connection = self.connect().await?;
        self.exchange(connection).await
    }

    /// Waits for a connection. Lines that are typed meanwhile are kept.
    async fn connect(&mut self) -> ControlFlow<Exit, Connection> {
        loop {
            let connecting = self.dialer.connect(|text| self.screen.notice(text));
            let typed = tokio::select! {
                connected = connecting => return connected_or_rejected(connected),
                typed = self.keyboard.next() => typed,
                () = self.stop.requested() => return ControlFlow::Break(Exit::Quit),
            };
            let command = self.command(typed);
            // A line is dealt with at once, and the attempt to connect goes on.
            self.run_offline(command)?;
            self.keyboard.go_on();
        }
    }

    fn run_offline(&mut self, command: Command) -> ControlFlow<Exit> {
        match command {
            Command::Publish(text) => self.keep(text),
            Command::Ping(_) => self.screen.answer("not connected: no ping"),
            Command::Last(count) => self.dialer.detour_for_last(count),
            // There is nothing to close.
            Command::Close { .. } => return ControlFlow::Break(Exit::Quit),
            Command::Help => self.help(),
            Command::Nothing => {}
        }
        ControlFlow::Continue(())
    }

    fn keep(&mut self, text: String) {
        // Not without limit, and rather rejected than dropped silently.
        if self.dialer.unacknowledged() >= KEPT_LINES {
            let problem = format!("not connected, and {KEPT_LINES} lines are kept: not published");
            return self.screen.answer(problem);
        }
        self.dialer.send(Message::text(text));
        self.screen
            .notice("not connected: kept, and published after reconnecting");
    }

    /// Runs commands and shows messages until the connection ends. Continues if a new one is
    /// wanted.
    async fn exchange(&mut self, mut connection: Connection) -> ControlFlow<Exit> {
        // Pings of an earlier connection will never be answered.
        self.pings.clear();
        self.closing = None;
        loop {
            // While closing no more lines are read, and messages do not wait for the terminal.
            let is_open = self.closing.is_none();
            let step = tokio::select! {
                event = next_event(&mut connection, &self.screen, is_open) => self.on_event(event),
                typed = self.keyboard.next(), if is_open => self.on_typed(typed, &mut connection),
                () = self.stop.requested() => self.on_stop(&mut connection),
            };
            match step {
                Step::Go => {}
                Step::Ended(end) => return self.on_end(&end, connection),
                Step::Quit => return ControlFlow::Break(Exit::Quit),
            }
        }
    }

    fn on_event(&mut self, event: Result<Event, End>) -> Step {
        match event {
            Ok(Event::Received(message)) => self.show(&message),
            Ok(event) => self.show_notice(&event),
            Err(end) => return Step::Ended(end),
        }
        Step::Go
    }

    fn show_notice(&self, event: &Event) {
        if let Some(text) = event.notice() {
            self.screen.notice(text);
        }
    }

    fn on_typed(&mut self, typed: Typed, connection: &mut Connection) -> Step {
        let command = self.command(typed);
        self.run_command(command, connection);
        // While closing there is no new prompt, see `Keyboard::go_on`.
        if self.closing.is_none() {
            self.keyboard.go_on();
        }
        Step::Go
    }

    /// The first stop closes the connection properly; a second one does not wait for that.
    fn on_stop(&mut self, connection: &mut Connection) -> Step {
        if self.closing.is_some() {
            return Step::Quit;
        }
        self.close(1000, "", Closing::Exit, connection);
        Step::Go
    }

    fn on_end(&mut self, end: &End, connection: Connection) -> ControlFlow<Exit> {
        let retry = self.dialer.ended(connection);
        match self.closing {
            Some(Closing::Exit) => return ControlFlow::Break(Exit::Closed(end.to_string())),
            // The prompt is still owed to the line that asked for it.
            Some(Closing::Reconnect) => self.keyboard.go_on(),
            None => self.screen.notice(format!("{end}; {retry}")),
        }
        ControlFlow::Continue(())
    }

    fn command(&mut self, typed: Typed) -> Command {
        match typed {
            Typed::Line(line) => self.parse(&line),
            Typed::Notice(text) => {
                self.screen.notice(text);
                Command::Nothing
            }
            Typed::End => Command::quit(),
        }
    }

    fn parse(&self, line: &str) -> Command {
        command::parse(line).unwrap_or_else(|problem| {
            self.screen.answer(problem);
            Command::Nothing
        })
    }

    fn run_command(&mut self, command: Command, connection: &mut Connection) {
        match command {
            // A line that is dropped silently would be taken for a published one.
            Command::Publish(_) | Command::Ping(_) if !connection.has_room() => {
                self.screen.answer("the server is not reading: not sent");
            }
            Command::Publish(text) => connection.send(Message::text(text)),
            Command::Ping(text) => self.ping(text, connection),
            Command::Close { code, reason } => {
                self.close(code, &reason, Closing::Exit, connection);
            }
            Command::Last(count) => self.replay(count, connection),
            Command::Help => self.help(),
            Command::Nothing => {}
        }
    }

    /// A replay can only be asked for in a handshake.
    fn replay(&mut self, count: u64, connection: &mut Connection) {
        self.dialer.detour_for_last(count);
        self.close(1000, "", Closing::Reconnect, connection);
    }

    fn ping(&mut self, text: String, connection: &mut Connection) {
        let payload = Bytes::from(text);
        self.pings.sent(payload.clone());
        connection.ping(payload);
    }

    fn close(&mut self, code: u16, reason: &str, then: Closing, connection: &mut Connection) {
        connection.close(code, reason);
        self.closing = Some(then);
    }

    fn help(&self) {
        HELP.lines().for_each(|line| self.screen.answer(line));
    }

    fn show(&mut self, message: &Message) {
        match message {
            Message::Pong(payload) => self.show_pong(payload),
            Message::Ping(payload) => self.show_ping(payload),
            message => self.show_message(message),
        }
    }

    fn show_message(&self, message: &Message) {
        if let Some(text) = shown(message) {
            self.screen.message(&text);
        }
    }

    /// The connection has answered it already.
    fn show_ping(&self, payload: &Bytes) {
        if self.show_ping_pong {
            self.screen.notice(format!("ping {}", quote(payload)));
        }
    }

    fn show_pong(&mut self, payload: &Bytes) {
        let text = quote(payload);
        if let Some(took) = self.pings.answered(payload) {
            let milliseconds = took.as_secs_f64() * 1000.0;
            self.screen
                .notice(format!("pong {text} after {milliseconds:.2} ms"));
        } else if self.show_ping_pong {
            self.screen.notice(format!("pong {text}"));
        }
    }
}

/// The next step after one event of `exchange`.
enum Step {
    Go,
    Ended(End),
    Quit,
}

fn connected_or_rejected(connected: Result<Connection, String>) -> ControlFlow<Exit, Connection> {
    match connected {
        Ok(connection) => ControlFlow::Continue(connection),
        Err(reason) => ControlFlow::Break(Exit::Rejected(reason)),
    }
}

fn quote(payload: &Bytes) -> String {
    format!("\"{}\"", String::from_utf8_lossy(payload).escape_debug())
}

/// The next event, as soon as the terminal can show it. A connection that is closing is not held
/// up: the few messages that still arrive are shown as far as there is room.
async fn next_event(
    connection: &mut Connection,
    screen: &Screen,
    is_open: bool,
) -> Result<Event, End> {
    if is_open {
        screen.room().await;
    }
    connection.next().await
}
