//! How `client` and `shell` reach a server: dialing, what a refusal is, when to try again. What the
//! user named is checked in `target`, an open connection lives in `connection`, what carries over
//! from one to the next in `resume`; what is said and shown is left to the subcommands.

mod connection;
mod event;
mod output;
mod resume;
mod target;
mod tls;
mod unacknowledged;
mod v1;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{self, Message, http};
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

pub(crate) use connection::{Connection, End, check_close_code};
pub(crate) use event::Event;
pub(crate) use output::{Output, shown};
use resume::Resume;
pub(crate) use target::{DEFAULT_URL, Target, TargetOptions, usage_error};

/// The first reconnect comes within this time; each failure doubles the window.
const FIRST_WINDOW: Duration = Duration::from_millis(500);
/// The longest window between two attempts. A connection that lasted this long starts again from
/// the first window.
const LONGEST_WINDOW: Duration = Duration::from_secs(15);
/// Name lookup, TCP, TLS and the handshake together.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// The server's reason is one line; more than this is not one.
const LONGEST_REASON: usize = 200;

/// Connects to one target as often as needed.
pub(crate) struct Dialer {
    target: Target,
    /// Used instead of `target` until it has connected once.
    detour: Option<Target>,
    tls: Option<Connector>,
    /// Whether servers are asked for `echocast.v1`. Not after one was asked in vain.
    offer_v1: bool,
    /// `None` while a connection has it.
    resume: Option<Resume>,
    /// Whether the attempt under way has been told of: it may be dropped and begun again.
    announced: bool,
    failures: u32,
    next_try: Instant,
    connected_at: Instant,
}

/// Why one attempt did not give a connection.
pub(crate) enum DialError {
    /// The server answered, and trying again would get the same answer.
    Refused(String),
    /// It may work later.
    Failed(String),
}

impl Dialer {
    /// `check_tls: false` accepts any certificate.
    pub(crate) fn new(target: Target, check_tls: bool) -> anyhow::Result<Self> {
        let tls = tls::connector(check_tls)?;
        let now = Instant::now();
        Ok(Self {
            offer_v1: target.offers_v1(),
            resume: Some(Resume::new(target.hears_itself(), rand::random())),
            target,
            detour: None,
            tls,
            announced: false,
            failures: 0,
            next_try: now,
            connected_at: now,
        })
    }

    /// One attempt, at once.
    pub(crate) async fn dial(&mut self) -> Result<Connection, DialError> {
        let socket = loop {
            let attempt =
                connect_async_tls_with_config(self.request(), None, true, self.tls.clone());
            let answer = timeout(DIAL_DEADLINE, attempt).await.map_err(|_| {
                DialError::Failed(format!("no answer within {} s", DIAL_DEADLINE.as_secs()))
            })?;
            match answer {
                Ok((socket, response)) if !self.offer_v1 || v1::is_spoken(&response) => {
                    break socket;
                }
                Err(error) if !(self.offer_v1 && connection::took_no_subprotocol(&error)) => {
                    return Err(error.into());
                }
                // Not one of ours, or behind a proxy that hides it. Asked for nothing, every server
                // is sure to be raw.
                Ok(_) | Err(_) => self.offer_v1 = false,
            }
        };
        let mut resume = self
            .resume
            .take()
            .expect("the connection before was handed to `ended`");
        if self.detour.take().is_some() {
            resume.forget_place();
        }
        self.connected_at = Instant::now();
        Ok(Connection::new(socket, self.offer_v1, resume))
    }

    fn request(&self) -> Request {
        let target = self.detour.as_ref().unwrap_or(&self.target);
        match self.resume.as_ref().and_then(Resume::since) {
            Some(id) if self.detour.is_none() => target.with_since(id).request(self.offer_v1),
            _ => target.request(self.offer_v1),
        }
    }

    /// Tries until it works or is refused for good. Dropping the future keeps the schedule.
    pub(crate) async fn connect(
        &mut self,
        mut tell: impl FnMut(String),
    ) -> Result<Connection, String> {
        loop {
            sleep_until(self.next_try).await;
            if !std::mem::replace(&mut self.announced, true) {
                tell(format!("connecting to {}", self.target));
            }
            let dialed = self.dial().await;
            self.announced = false;
            match dialed {
                Ok(connection) => {
                    tell(format!("connected to {}", self.target));
                    return Ok(connection);
                }
                Err(DialError::Refused(reason)) => return Err(reason),
                Err(DialError::Failed(reason)) => tell(format!("{reason}; {}", self.schedule())),
            }
        }
    }

    /// Keeps a message for the next connection.
    pub(crate) fn say(&mut self, message: Message) {
        let resume = self
            .resume
            .as_mut()
            .expect("with a connection, that one says it");
        // Without a connection nothing is sent.
        resume.say(message, &mut VecDeque::new());
    }

    /// How many messages wait for the next connection or for its acknowledgement.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.resume.as_ref().map_or(0, Resume::unacknowledged)
    }

    /// Takes over from a connection that ended, sets the time of the next attempt and says when
    /// that is.
    pub(crate) fn ended(&mut self, connection: Connection) -> String {
        let mut resume = connection.into_resume();
        let asked = resume.ended();
        self.resume = Some(resume);
        if self.connected_at.elapsed() >= LONGEST_WINDOW {
            self.failures = 0;
        }
        match asked {
            _ if self.detour.is_some() => self.schedule_after(Duration::ZERO),
            Some(delay) => self.schedule_after(delay),
            None => self.schedule(),
        }
    }

    /// Connects next, and at once, with a replay of the newest `count` messages; later reconnects
    /// are as before, or every lost connection would show the same messages again.
    pub(crate) fn detour_for_last(&mut self, count: u64) {
        self.detour = Some(self.target.with_last(count));
        self.next_try = Instant::now();
    }

    /// Full jitter: thousands of clients that lost one node must not come back together.
    fn schedule(&mut self) -> String {
        let window = LONGEST_WINDOW.min(FIRST_WINDOW * 2_u32.saturating_pow(self.failures.min(10)));
        self.failures += 1;
        self.schedule_after(rand::rng().random_range(Duration::ZERO..=window))
    }

    fn schedule_after(&mut self, delay: Duration) -> String {
        self.next_try = Instant::now() + delay;
        format!("retrying in {:.1} s", delay.as_secs_f32())
    }
}

impl From<tungstenite::Error> for DialError {
    fn from(error: tungstenite::Error) -> Self {
        let tungstenite::Error::Http(response) = error else {
            return Self::Failed(format!("cannot connect: {}", connection::in_words(&error)));
        };
        let text = refusal(&response);
        match response.status().as_u16() {
            429 | 502 | 503 | 504 => Self::Failed(text),
            _ => Self::Refused(text),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(reason) | Self::Failed(reason)) = self;
        f.write_str(reason)
    }
}

/// The status and the server's own line, if it sent one that can be shown as it is.
fn refusal(response: &http::Response<Option<Vec<u8>>>) -> String {
    let status = format!("the server answered {}", response.status());
    let plain = !response
        .headers()
        .contains_key(http::header::TRANSFER_ENCODING);
    let body = response
        .body()
        .as_deref()
        .filter(|_| plain)
        .unwrap_or_default();
    let body = String::from_utf8_lossy(body);
    let line = body.lines().next().unwrap_or_default().trim();
    if line.is_empty() || line.starts_with('<') || line.chars().any(char::is_control) {
        return status;
    }
    format!(
        "{status}: {}",
        line.chars().take(LONGEST_REASON).collect::<String>()
    )
}

/// For people, at the end: what may be lost.
pub(crate) fn doubtful(unacknowledged: usize) -> Option<String> {
    match unacknowledged {
        0 => None,
        1 => Some("1 message was not acknowledged: it may not have arrived".to_owned()),
        count => Some(format!(
            "{count} messages were not acknowledged: they may not have arrived"
        )),
    }
}

/// Ctrl-C or SIGTERM, kept from the start so that none is missed between two waits.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
