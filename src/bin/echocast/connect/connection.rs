//! One open connection: reads and writes at the same time, notices a dead server, closes properly.
//! What its messages mean is `resume`'s. It never reconnects and prints nothing.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::event::Event;
use super::resume::Resume;

/// A server that pings every 20 s and is not heard for this long is gone, whatever TCP thinks.
const SILENCE: Duration = Duration::from_secs(45);
/// Not every server pings: after this much silence we do, so that a quiet one is not taken for a
/// dead one.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long the other side has to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long a server may take to close TCP after the close handshake.
const LINGER: Duration = Duration::from_secs(1);
/// Messages waiting to be written; beyond it, see `has_room`, nothing more should be said.
const OUTBOX: usize = 64;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The owner must keep calling `next`: nothing is written, and no ping answered, without it.
pub(crate) struct Connection {
    /// Split, because a peer that has filled both directions is only freed by one who reads while
    /// his writing waits.
    incoming: SplitStream<Socket>,
    outgoing: SplitSink<Socket, Message>,
    outbox: VecDeque<Message>,
    unflushed: bool,
    resume: Resume,
    /// Told before anything else is read.
    events: VecDeque<Event>,
    heard_at: Instant,
    pinged: bool,
    /// Set once the end is near: closing, closed by the server, or writing failed.
    give_up_at: Option<Instant>,
    end: Option<End>,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The close handshake was done; with the server's code and reason, if it gave any.
    Closed(Option<CloseFrame>),
    /// Without a close: why.
    Lost(String),
}

impl Connection {
    /// `v1`: whether the server speaks it.
    pub(crate) fn new(socket: Socket, v1: bool, mut resume: Resume) -> Self {
        let (outgoing, incoming) = socket.split();
        let mut outbox = VecDeque::new();
        let events = resume.opened(v1, &mut outbox).into();
        Self {
            incoming,
            outgoing,
            outbox,
            unflushed: false,
            resume,
            events,
            heard_at: Instant::now(),
            pinged: false,
            give_up_at: None,
            end: None,
        }
    }

    /// Queues a message of the channel; `next` writes it.
    pub(crate) fn say(&mut self, message: Message) {
        self.resume.say(message, &mut self.outbox);
    }

    /// Queues a ping; the pong is heard.
    pub(crate) fn ping(&mut self, payload: Bytes) {
        self.outbox.push_back(Message::Ping(payload));
    }

    /// Whether the server keeps up with what is said. Say no more until it does.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX && self.resume.has_room()
    }

    /// How much of what was said may still be lost. Always 0 where the server acknowledges nothing.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.resume.unacknowledged()
    }

    /// Whether the next connection can go on where this one ends.
    pub(crate) fn resumes(&self) -> bool {
        self.resume.resumes()
    }

    /// What the next connection needs to know.
    pub(super) fn into_resume(self) -> Resume {
        self.resume
    }

    /// Starts the close handshake behind all that was said. `next` goes on telling what is heard,
    /// and then the end.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        self.outbox.push_back(Message::Close(Some(CloseFrame {
            code: code.into(),
            reason: reason.into(),
        })));
        self.give_up_at = Some(Instant::now() + CLOSE_WAIT);
    }

    /// Safe to drop and to call again.
    pub(crate) async fn next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let patience = if self.pinged { SILENCE } else { PING_AFTER };
            let deadline = self.give_up_at.unwrap_or(self.heard_at + patience);
            let reading = timeout_at(deadline, self.incoming.next());
            let writing = poll_fn(|cx| {
                poll_write(
                    &mut self.outgoing,
                    &mut self.outbox,
                    &mut self.unflushed,
                    cx,
                )
            });
            let step = tokio::select! {
                read = reading => self.on_read(read.ok()),
                written = writing => self.on_written(written),
            };
            if let ControlFlow::Break(outcome) = step {
                return outcome;
            }
        }
    }

    /// `None`: nothing was read before the deadline.
    fn on_read(
        &mut self,
        read: Option<Option<Result<Message, Error>>>,
    ) -> ControlFlow<Result<Event, End>> {
        let lost = match read {
            Some(Some(Ok(Message::Close(frame)))) => {
                self.events.extend(
                    frame
                        .iter()
                        .flat_map(|frame| self.resume.closed(frame.code.into())),
                );
                // Our answer goes out, and the server closes TCP, while we read on to the end.
                self.end = Some(End::Closed(frame));
                self.give_up_at = Some(Instant::now() + LINGER);
                return ControlFlow::Continue(());
            }
            Some(Some(Ok(message))) => {
                self.heard_at = Instant::now();
                self.pinged = false;
                self.events
                    .extend(self.resume.hear(message, &mut self.outbox));
                return ControlFlow::Continue(());
            }
            Some(Some(Err(error))) => in_words(&error),
            Some(None) => "the server ended it".to_owned(),
            None if self.give_up_at.is_some() => {
                format!("no answer to the close within {} s", CLOSE_WAIT.as_secs())
            }
            None if self.pinged => format!("nothing heard for {} s", SILENCE.as_secs()),
            None => {
                self.pinged = true;
                self.ping(Bytes::new());
                return ControlFlow::Continue(());
            }
        };
        ControlFlow::Break(Err(self.end.take().unwrap_or(End::Lost(lost))))
    }

    fn on_written(&mut self, written: Result<(), Error>) -> ControlFlow<Result<Event, End>> {
        match written {
            Ok(()) if self.end.is_none() => {
                self.give_up_at = self.give_up_at.map(|_| Instant::now() + CLOSE_WAIT);
                ControlFlow::Break(Ok(Event::Flushed))
            }
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                // The server's reason may still be on its way to us: read on, and use this one if
                // there is none.
                self.outbox.clear();
                self.unflushed = false;
                self.give_up_at = Some(Instant::now() + LINGER);
                self.end.get_or_insert(End::Lost(in_words(&error)));
                ControlFlow::Continue(())
            }
        }
    }
}

/// Ready once all of the outbox is written; pending while there is nothing to write.
fn poll_write(
    outgoing: &mut SplitSink<Socket, Message>,
    outbox: &mut VecDeque<Message>,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    while !outbox.is_empty() {
        ready!(outgoing.poll_ready_unpin(cx))?;
        if let Some(message) = outbox.pop_front() {
            outgoing.start_send_unpin(message)?;
            *unflushed = true;
        }
    }
    if !*unflushed {
        return Poll::Pending;
    }
    ready!(outgoing.poll_flush_unpin(cx))?;
    *unflushed = false;
    Poll::Ready(Ok(()))
}

/// Whether the server did as if nothing had been offered, which is its right, but an error to the
/// library.
pub(crate) fn took_no_subprotocol(error: &Error) -> bool {
    matches!(
        error,
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol
        ))
    )
}

/// The cause without the layers it came through.
pub(crate) fn in_words(error: &Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "the server ended it without a close".to_owned()
        }
        error => error.to_string(),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "connection lost: {why}"),
            Self::Closed(None) => f.write_str("connection closed without a code"),
            Self::Closed(Some(frame)) => {
                let code = u16::from(frame.code);
                write!(f, "connection closed: {code} {}", words(code))?;
                if frame.reason.is_empty() {
                    Ok(())
                } else {
                    write!(f, " ({})", frame.reason.escape_debug())
                }
            }
        }
    }
}

fn words(code: u16) -> &'static str {
    match code {
        1000 => "normal",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "kind of data not accepted",
        1007 => "text that is not UTF-8",
        1008 => "against the server's policy",
        1009 => "message too big",
        1010 => "extension missing",
        1011 => "server error",
        1012 => "server restarting, come back",
        1013 => "too slow or too busy, come back",
        1014 => "bad gateway",
        3000..=3999 => "registered code",
        4000..=4999 => "application code",
        _ => "unknown code",
    }
}

/// What RFC 6455 lets an endpoint send: a code that exists, and a reason that fits into a control
/// frame.
pub(crate) fn check_close_code(code: u16, reason: &str) -> Result<(), String> {
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(format!(
            "close code {code} cannot be sent: use 1000-1003, 1007-1014 or 3000-4999"
        ));
    }
    if reason.len() > 123 {
        return Err(format!(
            "the reason is {} bytes long, a close holds at most 123",
            reason.len()
        ));
    }
    Ok(())
}
