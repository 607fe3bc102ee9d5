//! The shell without a terminal: lines in, messages out, nothing else on standard output. It
//! reconnects only where nothing is lost by that: a script must learn that lines may not have
//! arrived.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::unheard::Unheard;
use crate::connect::{Connection, Dialer, End, Event, Output, Stop, doubtful};
use crate::show::notice;

/// How long a line may take to come back, counted from the last progress made.
const ECHO_WAIT: Duration = Duration::from_secs(2);
/// The same for its acknowledgement, which a server owes us, be it with its broker away for a
/// while.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// How long a script is kept waiting for a new connection.
const RECONNECT_WAIT: Duration = Duration::from_secs(60);
/// The longest line, or a pipe without line ends would fill the memory.
const LONGEST_LINE: u64 = 16 << 20;

/// When to close after the last line.
pub(crate) enum Ending {
    /// When the lines have been acknowledged, where servers do that, and have been heard back,
    /// where they are.
    Arrived {
        heard_back: bool,
    },
    /// When they have been acknowledged, and not before this time.
    After(Duration),
    Never,
}

/// The texts, then, if `read_input`, the lines of standard input; read only as fast as they are
/// taken.
pub(crate) fn lines(texts: Vec<String>, read_input: bool) -> mpsc::Receiver<io::Result<Message>> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread, because a read that waits for a pipe cannot be given up: it must not hold up the
    // exit.
    thread::spawn(move || {
        let texts = texts.into_iter().map(|text| Ok(Message::text(text)));
        let mut input = BufReader::new(io::stdin());
        let input = std::iter::from_fn(|| read_line(&mut input).transpose());
        for line in texts.chain(input.take(if read_input { usize::MAX } else { 0 })) {
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// A line without its end, as text; what is not UTF-8 goes as binary, so that every byte arrives.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut line = Vec::new();
    if input.take(LONGEST_LINE + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 > LONGEST_LINE {
        return Err(io::Error::other(format!(
            "a line is longer than {LONGEST_LINE} bytes"
        )));
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
    Ok(Some(String::from_utf8(line).map_or_else(
        |error| Message::binary(error.into_bytes()),
        Message::text,
    )))
}

pub(crate) async fn run(
    mut dialer: Dialer,
    mut stop: Stop,
    lines: mpsc::Receiver<io::Result<Message>>,
    ending: Ending,
    show_ping_pong: bool,
) -> anyhow::Result<ExitCode> {
    let dialed = tokio::select! {
        dialed = dialer.dial() => dialed,
        () = stop.requested() => return Ok(ExitCode::FAILURE),
    };
    let mut connection = match dialed {
        Ok(connection) => connection,
        Err(error) => return Ok(failure(&error.to_string())),
    };
    let unheard = Unheard::new(matches!(ending, Ending::Arrived { heard_back: true }));
    let output = Output::new();
    let mut pipe = Pipe {
        stop,
        lines,
        ending,
        output,
        show_ping_pong,
        unheard,
        said: 0,
        input_ended: None,
        leaving: false,
        failed: false,
    };
    loop {
        let end = match pipe.talk(&mut connection).await? {
            ControlFlow::Continue(end) => end,
            ControlFlow::Break(code) => return Ok(code),
        };
        let resumes = connection.resumes();
        let retry = dialer.ended(connection);
        if pipe.leaving || !resumes {
            return Ok(pipe.left(&end, resumes, dialer.unacknowledged()));
        }
        notice(format_args!("{end}; {retry}"));
        let connected = tokio::select! {
            connected = timeout(RECONNECT_WAIT, dialer.connect(notice)) => connected,
            () = pipe.output.unread() => return Ok(ExitCode::SUCCESS),
            () = pipe.stop.requested() => Ok(Err("stopped".to_owned())),
        };
        connection = match connected
            .unwrap_or_else(|_| Err(format!("no connection for {} s", RECONNECT_WAIT.as_secs())))
        {
            Ok(connection) => connection,
            Err(problem) => {
                return Ok(pipe.left(&End::Lost(problem), true, dialer.unacknowledged()));
            }
        };
    }
}

/// What goes on from one connection to the next.
struct Pipe {
    stop: Stop,
    lines: mpsc::Receiver<io::Result<Message>>,
    ending: Ending,
    output: Output,
    show_ping_pong: bool,
    unheard: Unheard,
    said: u64,
    input_ended: Option<Instant>,
    leaving: bool,
    failed: bool,
}

impl Pipe {
    /// Until the connection ends, or nobody reads any more.
    async fn talk(
        &mut self,
        connection: &mut Connection,
    ) -> anyhow::Result<ControlFlow<ExitCode, End>> {
        self.unheard.progress = Instant::now();
        loop {
            let arrived = connection.unacknowledged() == 0;
            if self.input_ended.is_some()
                && arrived
                && self.unheard.is_empty()
                && self.ending.is_arrival()
            {
                self.leave(connection);
            }
            let wake = self.wake(arrived);
            let may_read = self.input_ended.is_none()
                && !self.leaving
                && connection.has_room()
                && self.unheard.has_room();
            tokio::select! {
                event = connection.next() => match event {
                    Ok(event) => if self.on_event(event)?.is_break() {
                        return Ok(ControlFlow::Break(ExitCode::SUCCESS));
                    },
                    Err(end) => return Ok(ControlFlow::Continue(end)),
                },
                line = self.lines.recv(), if may_read => self.on_line(line, connection),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    if arrived && self.ending.is_arrival() {
                        self.unheard.give_up();
                    } else {
                        self.leave(connection);
                    }
                }
                () = self.output.unread() => return Ok(ControlFlow::Break(ExitCode::SUCCESS)),
                () = self.stop.requested() => {
                    if self.leaving {
                        return Ok(ControlFlow::Break(ExitCode::FAILURE));
                    }
                    self.leave(connection);
                }
            }
        }
    }

    /// When waiting must end if nothing happens.
    fn wake(&self, arrived: bool) -> Option<Instant> {
        match (&self.ending, self.input_ended) {
            _ if self.leaving => None,
            _ if !arrived => Some(self.unheard.progress + ACK_WAIT),
            (Ending::After(wait), Some(ended)) => Some(ended + *wait),
            (Ending::Arrived { .. }, ended) if ended.is_some() || !self.unheard.has_room() => {
                Some(self.unheard.progress + ECHO_WAIT)
            }
            _ => None,
        }
    }

    /// Breaks when nobody reads the output any more.
    fn on_event(&mut self, event: Event) -> anyhow::Result<ControlFlow<()>> {
        event.words().into_iter().for_each(notice);
        match event {
            Event::Heard(message) => {
                self.unheard.heard(&message);
                if self.show_ping_pong {
                    tell_control(&message);
                }
                return self.output.print(&message);
            }
            Event::NotSaid { message, .. } => {
                self.failed = true;
                message
                    .into_iter()
                    .for_each(|message| self.unheard.forget(&message));
            }
            Event::Acknowledged | Event::Flushed => self.unheard.progress = Instant::now(),
            Event::Missing(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_line(&mut self, line: Option<io::Result<Message>>, connection: &mut Connection) {
        match line {
            Some(Ok(line)) => {
                self.said += 1;
                self.unheard.said(&line);
                connection.say(line);
                return;
            }
            Some(Err(error)) => {
                notice(format_args!("cannot read standard input: {error}"));
                self.failed = true;
            }
            None => {}
        }
        self.input_ended = Some(Instant::now());
    }

    fn leave(&mut self, connection: &mut Connection) {
        if !std::mem::replace(&mut self.leaving, true) {
            connection.close(1000, "");
        }
    }

    /// The exit code after the last connection. Where the server acknowledges, it is known what has
    /// arrived.
    fn left(&self, end: &End, acknowledges: bool, unacknowledged: usize) -> ExitCode {
        let arrived = if acknowledges {
            unacknowledged == 0
        } else {
            self.unheard.is_empty()
        };
        if self.leaving && arrived && (acknowledges || matches!(end, End::Closed(_))) {
            return if self.failed {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
        failure(&match doubtful(unacknowledged) {
            Some(words) => format!("{end}; {words}"),
            None if acknowledges => format!("{end}; all {} messages said have arrived", self.said),
            None => format!(
                "{end}; of {} messages said, not all may have arrived{}",
                self.said, self.unheard
            ),
        })
    }
}

impl Ending {
    fn is_arrival(&self) -> bool {
        matches!(self, Self::Arrived { .. })
    }
}

fn tell_control(message: &Message) {
    match message {
        Message::Ping(_) => notice("ping"),
        Message::Pong(_) => notice("pong"),
        _ => {}
    }
}

fn failure(problem: &str) -> ExitCode {
    notice(problem);
    ExitCode::FAILURE
}
