//! One open connection: reads and writes at the same time, notices a dead server, closes properly.
//! The meaning of its messages is known to `resume`. It never reconnects, and prints nothing.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::close::{End, describe};
use super::event::Event;
use super::resume::Resume;
use super::writer::{Socket, Writer};

/// A server that pings every 20 s, and from which nothing is received for this long, is gone,
/// whatever TCP reports.
const SILENCE: Duration = Duration::from_secs(45);
/// Not every server pings. After this much silence we ping, so that a quiet server is not taken for
/// a dead one.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long the other side has to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long a server may take to close TCP after the close handshake.
const LINGER: Duration = Duration::from_secs(1);
/// Messages that wait to be written. Beyond it no more should be sent, see `has_room`.
const QUEUE: usize = 64;

/// The owner must keep calling `next`: without it nothing is written, and no ping is answered.
pub(crate) struct Connection {
    /// Reading and writing are separate halves. If both directions are full, only reading while a
    /// write waits gets the connection going again.
    incoming: SplitStream<Socket>,
    writer: Writer,
    resume: Resume,
    /// Returned before anything else is read.
    events: VecDeque<Event>,
    received_at: Instant,
    /// Whether we have pinged since something was received.
    pinged: bool,
    /// Set once the end is near: we close, the server has closed, or writing failed.
    give_up_at: Option<Instant>,
    end: Option<End>,
}

/// `Break` with what `next` returns.
type Step = ControlFlow<Result<Event, End>>;

impl Connection {
    /// `v1`: whether the server speaks `echocast.v1`.
    pub(crate) fn new(socket: Socket, v1: bool, mut resume: Resume) -> Self {
        let (outgoing, incoming) = socket.split();
        let mut writer = Writer::new(outgoing);
        // With a raw server, messages that were kept are written at once.
        let events = resume.opened(v1, &mut writer.queue).into();
        Self {
            incoming,
            writer,
            resume,
            events,
            received_at: Instant::now(),
            pinged: false,
            give_up_at: None,
            end: None,
        }
    }

    /// Queues a message of the channel; `next` writes it.
    pub(crate) fn send(&mut self, message: Message) {
        self.resume.send(message, &mut self.writer.queue);
    }

    /// Queues a ping. Its pong is received as an event.
    pub(crate) fn ping(&mut self, payload: Bytes) {
        self.writer.queue.push_back(Message::Ping(payload));
    }

    /// Whether the server keeps up. If not, send no more for now.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.queue.len() < QUEUE && self.resume.has_room()
    }

    /// How many messages may still be lost. Always 0 if the server acknowledges nothing.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.resume.unacknowledged()
    }

    /// Whether the next connection can resume where this one ends.
    pub(crate) fn resumes(&self) -> bool {
        self.resume.resumes()
    }

    /// Knowledge for the next connection.
    pub(super) fn into_resume(self) -> Resume {
        self.resume
    }

    /// Starts the close handshake, behind everything that is queued. Go on calling `next` until it
    /// returns the end.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.writer.queue.push_back(Message::Close(Some(frame)));
        self.give_up_after(CLOSE_WAIT);
    }

    /// The next event. Cancellation-safe.
    pub(crate) async fn next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            // Reading goes on while a write waits, see `incoming`.
            let reading = timeout_at(self.deadline(), self.incoming.next());
            let step = tokio::select! {
                read = reading => self.on_read(read.ok()),
                written = self.writer.flushed() => self.on_written(written),
            };
            if let ControlFlow::Break(outcome) = step {
                return outcome;
            }
        }
    }

    fn deadline(&self) -> Instant {
        let patience = if self.pinged { SILENCE } else { PING_AFTER };
        self.give_up_at.unwrap_or(self.received_at + patience)
    }

    fn give_up_after(&mut self, time: Duration) {
        self.give_up_at = Some(Instant::now() + time);
    }

    /// `None`: nothing was read before the deadline.
    fn on_read(&mut self, read: Option<Option<Result<Message, Error>>>) -> Step {
        match read {
            Some(Some(Ok(Message::Close(frame)))) => self.on_close(frame),
            Some(Some(Ok(message))) => self.on_message(message),
            // The library reads no more after an error.
            Some(Some(Err(error))) => self.lost(describe(&error)),
            Some(None) => self.lost("the server ended it".to_owned()),
            None => self.on_deadline(),
        }
    }

    fn on_message(&mut self, message: Message) -> Step {
        // Anything that arrives shows that the server is alive.
        self.received_at = Instant::now();
        self.pinged = false;
        let events = self.resume.receive(message, &mut self.writer.queue);
        self.events.extend(events);
        ControlFlow::Continue(())
    }

    fn on_close(&mut self, frame: Option<CloseFrame>) -> Step {
        let code = frame.as_ref().map(|frame| frame.code.into());
        let event = code.and_then(|code| self.resume.closed(code));
        self.events.extend(event);
        // Read on to the end: meanwhile our answer is written, and the server closes TCP.
        self.end = Some(End::Closed(frame));
        self.give_up_after(LINGER);
        ControlFlow::Continue(())
    }

    fn on_deadline(&mut self) -> Step {
        if self.give_up_at.is_some() {
            return self.lost(nothing_within("no answer to the close", CLOSE_WAIT));
        }
        if self.pinged {
            return self.lost(nothing_within("nothing received", SILENCE));
        }
        // A server that is alive answers with a pong.
        self.pinged = true;
        self.ping(Bytes::new());
        ControlFlow::Continue(())
    }

    /// The end. If it was announced by a close or a failed write, that is the better reason.
    fn lost(&mut self, why: String) -> Step {
        ControlFlow::Break(Err(self.end.take().unwrap_or(End::Lost(why))))
    }

    fn on_written(&mut self, written: Result<(), Error>) -> Step {
        match written {
            Ok(()) if self.end.is_none() => self.on_flushed(),
            // The server has closed, so nobody waits for room.
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.on_write_error(&error),
        }
    }

    fn on_flushed(&mut self) -> Step {
        // The close itself may have been written only now, so its time starts again.
        if self.give_up_at.is_some() {
            self.give_up_after(CLOSE_WAIT);
        }
        ControlFlow::Break(Ok(Event::Flushed))
    }

    /// The server's own reason may still arrive, so we read on. The error is used if it does not.
    fn on_write_error(&mut self, error: &Error) -> Step {
        self.writer.give_up();
        self.give_up_after(LINGER);
        self.end.get_or_insert(End::Lost(describe(error)));
        ControlFlow::Continue(())
    }
}

fn nothing_within(what: &str, time: Duration) -> String {
    format!("{what} within {} s", time.as_secs())
}
