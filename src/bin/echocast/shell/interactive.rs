//! The shell at a terminal: carries out what is typed, shows what is heard, and keeps a connection.
//! It owns neither the terminal's ways (`terminal`) nor the meaning of a line (`command`).

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::process::ExitCode;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::command::{self, Command, HELP};
use super::screen::Screen;
use super::terminal::{self, Keyboard, Typed};
use crate::connect::{Connection, Dialer, End, Event, Stop, doubtful, shown};
use crate::show::notice;

/// Lines typed while there is no connection, and those before that are not acknowledged.
const KEPT_LINES: usize = 100;
/// Pings whose pong is still awaited.
const OPEN_PINGS: usize = 16;

pub(crate) async fn run(
    dialer: Dialer,
    stop: Stop,
    says: Vec<String>,
    show_ping_pong: bool,
) -> anyhow::Result<ExitCode> {
    let (keyboard, screen) = terminal::open()?;
    let mut shell = Shell {
        dialer,
        stop,
        keyboard,
        screen,
        pings: VecDeque::new(),
        show_ping_pong,
    };
    for text in says {
        shell.dialer.say(Message::text(text));
    }
    let left = loop {
        let outcome = match shell.connect().await {
            ControlFlow::Continue(connection) => shell.talk(connection).await,
            ControlFlow::Break(left) => break left,
        };
        if let ControlFlow::Break(left) = outcome {
            break left;
        }
    };
    let doubtful = doubtful(shell.dialer.unacknowledged());
    // The terminal first, or the last words would be lost in a prompt.
    drop(shell);
    doubtful.into_iter().for_each(notice);
    match left {
        Left::Refused(reason) => {
            notice(reason);
            Ok(ExitCode::FAILURE)
        }
        Left::Closed(answer) => {
            notice(answer);
            Ok(ExitCode::SUCCESS)
        }
        Left::Quit => Ok(ExitCode::SUCCESS),
    }
}

struct Shell {
    dialer: Dialer,
    stop: Stop,
    keyboard: Keyboard,
    screen: Screen,
    pings: VecDeque<(Bytes, Instant)>,
    show_ping_pong: bool,
}

/// Why the shell ends.
enum Left {
    Quit,
    /// How the connection ended.
    Closed(String),
    /// The server will not have us.
    Refused(String),
}

/// What a line asks of the connection.
enum Wish {
    Nothing,
    Say(String),
    Ping(String),
    Close { code: u16, reason: String },
    Last(u64),
}

impl Shell {
    /// Until there is a connection. What is typed meanwhile is kept.
    async fn connect(&mut self) -> ControlFlow<Left, Connection> {
        loop {
            let wish = tokio::select! {
                connected = self.dialer.connect(|text| self.screen.notice(text)) => match connected {
                    Ok(connection) => return ControlFlow::Continue(connection),
                    Err(refusal) => return ControlFlow::Break(Left::Refused(refusal)),
                },
                typed = self.keyboard.next() => self.wish(typed),
                () = self.stop.requested() => return ControlFlow::Break(Left::Quit),
            };
            match wish {
                Wish::Nothing => {}
                Wish::Close { .. } => return ControlFlow::Break(Left::Quit),
                Wish::Say(_) if self.dialer.unacknowledged() >= KEPT_LINES => {
                    self.screen.answer(format!(
                        "not connected and {KEPT_LINES} lines are kept already: not said"
                    ));
                }
                Wish::Say(text) => {
                    self.dialer.say(Message::text(text));
                    self.screen
                        .notice("not connected: kept, to be said after reconnecting");
                }
                Wish::Ping(_) => self.screen.answer("not connected: no ping"),
                Wish::Last(count) => self.dialer.detour_for_last(count),
            }
            self.keyboard.go_on();
        }
    }

    /// From connect to the end of the connection; continues if a new one is wanted.
    async fn talk(&mut self, mut connection: Connection) -> ControlFlow<Left> {
        self.pings.clear();
        // Set once we have closed: whether to come back.
        let mut closing: Option<ControlFlow<()>> = None;
        loop {
            let wish = tokio::select! {
                event = heard(&mut connection, &self.screen, closing.is_none()) => match event {
                    Ok(Event::Heard(message)) => { self.show(&message); continue }
                    Ok(event) => { event.words().into_iter().for_each(|text| self.screen.notice(text)); continue }
                    Err(end) => {
                        let retry = self.dialer.ended(connection);
                        return match closing {
                            Some(ControlFlow::Break(())) => ControlFlow::Break(Left::Closed(end.to_string())),
                            Some(ControlFlow::Continue(())) => { self.keyboard.go_on(); ControlFlow::Continue(()) }
                            None => {
                                self.screen.notice(format!("{end}; {retry}"));
                                ControlFlow::Continue(())
                            }
                        };
                    }
                },
                typed = self.keyboard.next(), if closing.is_none() => self.wish(typed),
                () = self.stop.requested() => match closing {
                    None => Wish::Close { code: 1000, reason: String::new() },
                    Some(_) => return ControlFlow::Break(Left::Quit),
                },
            };
            match wish {
                Wish::Say(_) | Wish::Ping(_) if !connection.has_room() => {
                    self.screen.answer("the server is not reading: not said");
                }
                Wish::Say(text) => connection.say(Message::text(text)),
                Wish::Ping(text) => {
                    let payload = Bytes::from(text);
                    if self.pings.len() == OPEN_PINGS {
                        self.pings.pop_front();
                    }
                    self.pings.push_back((payload.clone(), Instant::now()));
                    connection.ping(payload);
                }
                Wish::Close { code, reason } => {
                    connection.close(code, &reason);
                    closing = Some(ControlFlow::Break(()));
                }
                Wish::Last(count) => {
                    self.dialer.detour_for_last(count);
                    connection.close(1000, "");
                    closing = Some(ControlFlow::Continue(()));
                }
                Wish::Nothing => {}
            }
            // No prompt any more while closing: see `Keyboard::go_on`.
            if closing.is_none() {
                self.keyboard.go_on();
            }
        }
    }

    /// Deals with what needs no connection.
    fn wish(&mut self, typed: Typed) -> Wish {
        let quit = Wish::Close {
            code: 1000,
            reason: String::new(),
        };
        let line = match typed {
            Typed::Line(line) => line,
            Typed::Notice(text) => {
                self.screen.notice(text);
                return Wish::Nothing;
            }
            Typed::End => return quit,
        };
        match command::parse(&line) {
            Ok(Command::Say(text)) => return Wish::Say(text),
            Ok(Command::Ping(text)) => return Wish::Ping(text),
            Ok(Command::Close { code, reason }) => return Wish::Close { code, reason },
            Ok(Command::Last(count)) => return Wish::Last(count),
            Ok(Command::Quit) => return quit,
            Ok(Command::Help) => HELP.lines().for_each(|line| self.screen.answer(line)),
            Ok(Command::Nothing) => {}
            Err(problem) => self.screen.answer(problem),
        }
        Wish::Nothing
    }

    fn show(&mut self, message: &Message) {
        match message {
            Message::Pong(payload) => {
                let text = String::from_utf8_lossy(payload).escape_debug().to_string();
                // A server may answer only the newest of several pings: older ones are answered
                // with it.
                if let Some(found) = self.pings.iter().rposition(|(sent, _)| sent == payload) {
                    let (_, sent_at) = self.pings.drain(..=found).next_back().expect("found above");
                    let milliseconds = sent_at.elapsed().as_secs_f64() * 1000.0;
                    self.screen
                        .notice(format!("pong \"{text}\" after {milliseconds:.2} ms"));
                } else if self.show_ping_pong {
                    self.screen.notice(format!("pong \"{text}\""));
                }
            }
            Message::Ping(payload) if self.show_ping_pong => {
                self.screen.notice(format!(
                    "ping \"{}\"",
                    String::from_utf8_lossy(payload).escape_debug()
                ));
            }
            message => {
                if let Some(text) = shown(message) {
                    self.screen.message(&text);
                }
            }
        }
    }
}

/// What the connection brings, as fast as the terminal can show it. A connection that is closing is
/// not held up: the little that it still brings is shown as far as there is room.
async fn heard(connection: &mut Connection, screen: &Screen, patient: bool) -> Result<Event, End> {
    if patient {
        screen.room().await;
    }
    connection.next().await
}
