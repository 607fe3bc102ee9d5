//! How `client` and `shell` reach a server: dials, reconnects, and resumes where it was.
//!
//! `target` checks what the user typed. `connection` is one open connection, and `resume` is what
//! carries over to the next one. The subcommands decide which messages are sent and shown.

mod address;
mod backoff;
mod close;
mod connection;
mod event;
mod output;
mod position;
mod rejection;
mod resume;
mod stop;
mod target;
mod tls;
mod unacknowledged;
mod v1;
mod writer;

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

pub(crate) use address::DEFAULT_URL;
use backoff::{Backoff, LONGEST_WINDOW};
pub(crate) use close::{End, check_close_code};
pub(crate) use connection::Connection;
pub(crate) use event::Event;
pub(crate) use output::{Output, shown};
pub(crate) use rejection::DialError;
use resume::Resume;
pub(crate) use stop::Stop;
pub(crate) use target::{Target, TargetOptions};
pub(crate) use unacknowledged::warning;
use writer::Socket;

/// Name lookup, TCP, TLS and the handshake together.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Connects to one target as often as needed.
pub(crate) struct Dialer {
    target: Target,
    /// Used instead of `target`, until it has connected once.
    detour: Option<Target>,
    tls: Option<Connector>,
    /// Whether to ask the server for `echocast.v1`. No longer after a server did not know it.
    offer_v1: bool,
    /// `None` while a connection has it.
    resume: Option<Resume>,
    /// Whether the attempt under way was reported. It may be dropped and begun again.
    announced: bool,
    backoff: Backoff,
    connected_at: Instant,
}

impl Dialer {
    /// With `check_tls: false` it accepts any certificate.
    pub(crate) fn new(target: Target, check_tls: bool) -> anyhow::Result<Self> {
        Ok(Self {
            tls: tls::connector(check_tls)?,
            offer_v1: target.offers_v1(),
            resume: Some(Resume::new(target.has_echo(), rand::random())),
            target,
            detour: None,
            announced: false,
            backoff: Backoff::new(),
            connected_at: Instant::now(),
        })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// One attempt, at once.
    pub(crate) async fn dial(&mut self) -> Result<Connection, DialError> {
        let socket = self.handshake().await?;
        let mut resume = self
            .resume
            .take()
            .expect("the connection before was passed to `ended`");
        // A detour asks for messages that were received before: they are no repetitions now.
        if self.detour.take().is_some() {
            resume.forget_position();
        }
        // How long it lasts decides whether the next failure is one more in a row.
        self.connected_at = Instant::now();
        Ok(Connection::new(socket, self.offer_v1, resume))
    }

    async fn handshake(&mut self) -> Result<Socket, DialError> {
        loop {
            match self.attempt().await? {
                Ok((socket, response)) if !self.offer_v1 || v1::is_spoken(&response) => {
                    return Ok(socket);
                }
                Err(error) if !(self.offer_v1 && rejection::took_no_subprotocol(&error)) => {
                    return Err(error.into());
                }
                // It is not one of our servers, or a proxy hides that it is one. If it is asked for
                // nothing, every server is sure to be raw, so try once more.
                Ok(_) | Err(_) => self.offer_v1 = false,
            }
        }
    }

    async fn attempt(&self) -> Result<Result<(Socket, Response), Error>, DialError> {
        // Without Nagle's algorithm, because messages are small and people wait for them.
        let attempt = connect_async_tls_with_config(self.request(), None, true, self.tls.clone());
        let answer = timeout(DIAL_DEADLINE, attempt).await;
        answer.map_err(|_| DialError::no_answer(DIAL_DEADLINE))
    }

    fn request(&self) -> Request {
        let since = self.resume.as_ref().and_then(Resume::since);
        match (&self.detour, since) {
            // A replay replaces the position.
            (Some(detour), _) => detour.request(self.offer_v1),
            (None, Some(id)) => self.target.with_since(id).request(self.offer_v1),
            (None, None) => self.target.request(self.offer_v1),
        }
    }

    /// Tries until it is connected, or rejected for good. Dropping the future keeps the schedule.
    pub(crate) async fn connect(
        &mut self,
        mut notify: impl FnMut(String),
    ) -> Result<Connection, String> {
        loop {
            self.backoff.wait().await;
            self.announce(&mut notify);
            let dialed = self.dial().await;
            self.announced = false;
            match dialed {
                Ok(connection) => {
                    notify(format!("connected to {}", self.target));
                    return Ok(connection);
                }
                // To try again would only be a load for the server.
                Err(DialError::Rejected(reason)) => return Err(reason),
                Err(DialError::Failed(why)) => notify(format!("{why}; {}", self.backoff.failed())),
            }
        }
    }

    /// Only once for each attempt, even if its future is dropped and it is begun again.
    fn announce(&mut self, notify: &mut impl FnMut(String)) {
        if !mem::replace(&mut self.announced, true) {
            notify(format!("connecting to {}", self.target));
        }
    }

    /// Keeps a message for the next connection.
    pub(crate) fn send(&mut self, message: Message) {
        let resume = self
            .resume
            .as_mut()
            .expect("while there is a connection, messages are sent on it");
        // Without a connection nothing is written.
        resume.send(message, &mut VecDeque::new());
    }

    /// How many messages wait for the next connection, or for its acknowledgement.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.resume.as_ref().map_or(0, Resume::unacknowledged)
    }

    /// Takes over from a connection that has ended, and schedules the next attempt. Returns a text
    /// that says when that is.
    pub(crate) fn ended(&mut self, connection: Connection) -> String {
        let mut resume = connection.into_resume();
        let asked = resume.ended();
        self.resume = Some(resume);
        // It was a good connection, so this is not one more failure in a row.
        if self.connected_at.elapsed() >= LONGEST_WINDOW {
            self.backoff.reset();
        }
        self.schedule(asked)
    }

    fn schedule(&mut self, asked: Option<Duration>) -> String {
        match asked {
            // The user waits for a replay.
            _ if self.detour.is_some() => self.backoff.retry_after(Duration::ZERO),
            Some(delay) => self.backoff.retry_after(delay),
            None => self.backoff.failed(),
        }
    }

    /// Connects next, and at once, with a replay of the newest `count` messages. Only once, because
    /// otherwise every lost connection would show the same messages again.
    pub(crate) fn detour_for_last(&mut self, count: u64) {
        // Messages that are not acknowledged stay queued, and are sent after it, too.
        self.detour = Some(self.target.with_last(count));
        self.backoff.retry_after(Duration::ZERO);
    }
}
