//! One WebSocket's life after its handshake: reads what the client says into the hub, writes what the feed holds to the
//! socket, answers pings, notices death, ends with a close. Its shard polls it when something has happened; an idle session
//! is some three hundred bytes and holds no buffer.

mod hearing;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::close::CloseReason;
use super::closing::{Closing, Step};
use super::frame::{self, Decoder, Limits};
use super::gate::Permit;
use super::outgoing::{Control, Outgoing, Progress, Reader};
use super::pulse::{Pulse, Seat};
use super::rate::Rate;
use super::socket::Socket;
use super::v1;
use crate::config::SlowClient;
use crate::feed::{Cursor, Feed, News, Taken};
use crate::hub::{Answer, Hub, Membership};
use crate::message::{Format, Shape, now_ns};
use crate::metrics::{LossCause, Metrics};

/// Rounds of reading and writing before other sessions get their turn.
const ROUNDS: usize = 8;

/// One delivery in this many is timed: two clock readings would cost more than the rest of the bookkeeping.
const TIMED_DELIVERY: u64 = 16;

/// What all sessions of a node share.
#[derive(Debug)]
pub struct Shared {
    /// Where messages go.
    pub hub: Arc<Hub>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// What wakes sessions to ping and to leave.
    pub pulse: Arc<Pulse>,
    /// What a client may say at once.
    pub limits: Limits,
    /// Messages a second and at once.
    pub message_rate: Option<u32>,
    /// What happens to slow readers.
    pub slow_client: SlowClient,
    /// Whether each message is logged.
    pub log_messages: bool,
    /// Tells this node from others.
    pub node: u64,
    /// Gives connections that do not want to hear themselves a number each.
    pub senders: AtomicU32,
}

/// What many sessions have sent together: counted at once, for counting each write would cost all cores the same memory.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent_bytes: u64,
    delivered: u64,
}

/// What a client asked for beside its channel.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// How messages look to it.
    pub format: Format,
    /// Whether it hears its own messages.
    pub echo: bool,
}

impl Tally {
    /// Counts it, and begins anew.
    pub(super) fn count(&mut self, metrics: &Metrics) {
        let Self { sent_bytes, delivered } = std::mem::take(self);
        if sent_bytes > 0 {
            metrics.websocket.sent_bytes.inc_by(sent_bytes);
            metrics.websocket.delivered.inc_by(delivered);
        }
    }
}

impl Shared {
    /// How long a client that is sent away should wait, in milliseconds: not all of a slot at the same moment, and not so
    /// short that event streams, which keep it for good, would hurry after every failure.
    pub fn retry_ms(&self) -> u64 {
        rand::random_range(500..1500)
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    shared: Arc<Shared>,
    membership: Membership,
    cursor: Cursor,
    reader: Reader,
    decoder: Decoder,
    control: Control,
    /// Bytes that came together with the handshake.
    early: Option<Box<Bytes>>,
    /// The number of the newest message this client said.
    said: u64,
    /// See [`crate::hub::Inbox::may_read`].
    inbox_round: u64,
    seat: Option<Seat>,
    visits_since_ping: u16,
    /// Visits since the first ping after which nothing was heard.
    silent_visits: Option<u16>,
    rate: Option<Box<Rate>>,
    closing: Option<Box<Closing>>,
    writes: u64,
    /// Where answers to this client's messages come in, once it has asked for one.
    answers: Option<Box<Answers>>,
    _permit: Permit,
}

#[derive(Debug)]
struct Answers {
    sender: UnboundedSender<Answer>,
    receiver: UnboundedReceiver<Answer>,
    /// How many are still to be passed on.
    owed: usize,
}

/// Why a poll ended the session at once.
type Ended = CloseReason;

impl Session {
    /// A session on a socket whose handshake is answered. `early` are the bytes that followed the handshake.
    pub(super) fn new(
        socket: Socket,
        early: Bytes,
        shared: Arc<Shared>,
        (membership, cursor): (Membership, Cursor),
        wishes: Wishes,
        permit: Permit,
    ) -> Self {
        let sender = if wishes.echo { 0 } else { shared.senders.fetch_add(1, Relaxed).max(1) };
        let rate = shared.message_rate.map(|limit| Box::new(Rate::new(limit)));
        Self {
            socket,
            membership,
            cursor,
            reader: Reader { format: wishes.format, sender },
            decoder: Decoder::new(),
            control: Control::default(),
            // Empty, it would still keep the HTTP server's whole buffer alive.
            early: (!early.is_empty()).then(|| Box::new(early)),
            said: 0,
            inbox_round: 0,
            seat: None,
            visits_since_ping: shared.pulse.rhythm().ping_visits - 2,
            silent_visits: None,
            rate,
            closing: None,
            writes: 0,
            answers: None,
            _permit: permit,
            shared,
        }
    }

    /// Does what can be done now; the waker rings when there is more. `news` are those of its channel's group.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, news: News<'_>, tally: &mut Tally) -> ControlFlow<Ended> {
        let mut idle = false;
        for round in 0..ROUNDS {
            let read = self.read(context)?;
            if round == 0 {
                // After reading: an answer that is already here counts.
                self.visit(context)?;
            }
            self.pass_answers(context);
            let written = self.write(context, news, tally)?;
            self.close_on(context)?;
            idle = read.is_pending() && written.is_pending();
            if idle {
                break;
            }
        }
        if !idle {
            context.waker().wake_by_ref();
        }
        if self.rests() && self.cursor.position() < news.end() {
            // The group does not wait for it.
            self.cursor.fall_behind(context.waker());
        }
        ControlFlow::Continue(())
    }

    /// Does what is due when the pulse came by.
    fn visit(&mut self, context: &Context<'_>) -> ControlFlow<Ended> {
        let seat = self.seat.get_or_insert_with(|| self.shared.pulse.join(context.waker()));
        let visits = seat.visits().min(1) as u16;
        if seat.is_cut_off() {
            return ControlFlow::Break(CloseReason::Drain);
        }
        if self.closing.is_some() {
            return ControlFlow::Continue(());
        }
        if seat.is_sent_away() {
            if self.reader.format.shape == Shape::V1 {
                self.control.push_text(v1::drain(self.shared.retry_ms()).as_bytes());
            }
            self.begin_close(CloseReason::Drain, "restarting, come back");
            return ControlFlow::Continue(());
        }
        if visits == 0 {
            return ControlFlow::Continue(());
        }
        let rhythm = self.shared.pulse.rhythm();
        self.silent_visits = self.silent_visits.map(|before| before + visits);
        if !self.shared.hub.inbox().has_room() {
            // Nobody is read from now, so nobody can be heard to answer.
            self.silent_visits = self.silent_visits.map(|_| 0);
        }
        if self.silent_visits.is_some_and(|silent| silent >= rhythm.dead_visits) {
            self.begin_close(CloseReason::PingTimeout, "no answer to a ping");
            return ControlFlow::Continue(());
        }
        self.visits_since_ping += visits;
        if self.visits_since_ping >= rhythm.ping_visits {
            self.visits_since_ping = 0;
            self.silent_visits.get_or_insert(0);
            self.control.push(frame::Control::Ping(&[]));
        }
        ControlFlow::Continue(())
    }

    /// Writes once; pending if there is nothing to write or the client does not take more now.
    fn write(&mut self, context: &mut Context<'_>, news: News<'_>, tally: &mut Tally) -> ControlFlow<Ended, Poll<()>> {
        let mut own = Taken::new();
        let mut taken: &[_] = &[];
        let mut frame_end = None;
        let mut news_end = false;
        if !self.reads_on() {
            if let Some((batch, end)) = self.cursor.unfinished_item(self.reader.format) {
                own.push(batch);
                (taken, frame_end) = (&own, Some(end));
            }
        } else if let Some(batches) = self.cursor.news(news) {
            taken = batches;
            news_end = self.cursor.position() + taken.len() as u64 >= news.end();
        } else if self.cursor.take_or_rest(context.waker(), &mut own).is_ok() {
            taken = &own;
        } else {
            frame_end = self.lagged(&mut own);
            if frame_end.is_none() && self.reads_on() {
                return ControlFlow::Continue(Poll::Ready(()));
            }
            taken = &own;
        }
        let outgoing = match frame_end {
            Some(end) => Outgoing::last(taken, end, &self.cursor, &self.control, self.reader),
            None => Outgoing::all(taken, &self.cursor, &self.control, self.reader),
        };
        if self.reader.format != Format::RAW {
            self.cursor.account(taken);
        }
        if outgoing.is_empty() {
            if taken.is_empty() {
                return ControlFlow::Continue(Poll::Pending);
            }
            // Marks that this format does not show, or its own messages.
            Progress::past(taken).apply(&mut self.cursor, taken, &mut self.control, self.reader);
            return ControlFlow::Continue(Poll::Ready(()));
        }
        let written = match self.socket.write(&outgoing.slices()) {
            Poll::Ready(Ok(written)) if written > 0 => written,
            Poll::Ready(_) => return ControlFlow::Break(self.reason_or_disconnected()),
            Poll::Pending => return ControlFlow::Continue(Poll::Pending),
        };
        let progress = outgoing.progress(written);
        // While these waited it may not have read: it looks again once they are written.
        let had_control = self.control.waiting() > 0;
        let live = !self.cursor.is_replaying();
        progress.apply(&mut self.cursor, taken, &mut self.control, self.reader);
        tally.sent_bytes += written as u64;
        tally.delivered += progress.messages;
        if let Some(batch) = taken.first().filter(|_| live && progress.batch > 0) {
            if self.writes.is_multiple_of(TIMED_DELIVERY) {
                self.shared.metrics.delivery_seconds.observe(now_ns().saturating_sub(batch.published_ns) as f64 / 1e9);
            }
            self.writes += 1;
        }
        let all = news_end && progress.batch == taken.len() && !had_control;
        ControlFlow::Continue(if all { Poll::Pending } else { Poll::Ready(()) })
    }

    /// The feed has moved on without this reader. A frame that was begun is ended first: its batch goes into `taken`
    /// and its end is returned. Then the reader is closed or skipped ahead.
    fn lagged(&mut self, taken: &mut Taken) -> Option<usize> {
        let policy = self.shared.slow_client;
        let unfinished = self.cursor.unfinished_item(self.reader.format);
        if policy == SlowClient::Disconnect {
            self.shared.metrics.slow_clients.with_label_values(&[policy.label()]).inc();
            // One that was ending anyway ends here, with what it has.
            match &mut self.closing {
                Some(_) => self.say_close(),
                None => self.begin_close(CloseReason::Slow, "too slow, come back"),
            }
        } else if unfinished.is_none() {
            self.shared.metrics.slow_clients.with_label_values(&[policy.label()]).inc();
            let missed = self.cursor.skip_to_newest();
            self.shared.metrics.lost(LossCause::SlowClient, missed.unwrap_or(0));
            if self.reader.format.shape == Shape::V1 {
                self.control.push_text(&v1::gap(missed));
            }
        }
        let (batch, end) = unfinished?;
        taken.push(batch);
        Some(end)
    }

    fn begin_close(&mut self, reason: CloseReason, text: &str) {
        self.begin_close_with(reason, reason.code(), text.to_owned());
    }

    fn begin_close_with(&mut self, reason: CloseReason, code: u16, text: String) {
        self.closing = Some(Box::new(Closing::new(reason, code, text)));
        if matches!(reason, CloseReason::Slow | CloseReason::PingTimeout) {
            self.say_close();
        }
    }

    /// Puts the close frame behind the frame that was begun; no message follows.
    fn say_close(&mut self) {
        if let Some(closing) = self.closing.as_deref_mut() {
            self.control.push(frame::Control::Close(Some((closing.code, &closing.text))));
            closing.step = Step::Say;
            self.cursor.retire();
        }
    }

    /// Takes an ending as far as it goes now.
    fn close_on(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended> {
        let Some(closing) = self.closing.as_deref_mut() else { return ControlFlow::Continue(()) };
        let late = closing.is_late(context);
        match &mut closing.step {
            Step::Deliver { until } => {
                *until = until.or_else(|| self.cursor.confirmed(self.said));
                let answered = self.answers.as_ref().is_none_or(|answers| answers.owed == 0);
                if late || (answered && until.is_some_and(|until| self.cursor.position() >= until)) {
                    closing.extend();
                    self.say_close();
                    context.waker().wake_by_ref();
                }
            }
            _ if late => return ControlFlow::Break(closing.reason),
            Step::Say if self.control.waiting() == 0 => {
                if self.socket.end().is_err() || closing.hung_up {
                    return ControlFlow::Break(closing.reason);
                }
                closing.step = Step::Linger;
                context.waker().wake_by_ref();
            }
            Step::Say | Step::Linger => {}
        }
        ControlFlow::Continue(())
    }

    /// Whether its group brings what comes.
    pub(super) fn rests(&self) -> bool {
        self.reads_on() && self.cursor.rests()
    }

    /// The number of the newest message this client said.
    pub(super) fn said(&self) -> u64 {
        self.said
    }

    /// The feed it reads.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.membership.channel().feed
    }

    /// Whether messages still go to this client.
    fn reads_on(&self) -> bool {
        self.closing.as_ref().is_none_or(|closing| matches!(closing.step, Step::Deliver { .. }))
    }

    fn reason_or_disconnected(&self) -> CloseReason {
        self.closing.as_ref().map_or(CloseReason::Disconnected, |closing| closing.reason)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Counts what it ended for.
    pub(super) fn end(&self, reason: CloseReason) {
        self.shared.metrics.websocket.closed(reason.label());
        tracing::debug!(reason = reason.label(), "disconnected");
    }
}
