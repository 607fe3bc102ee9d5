//! One WebSocket's life after its handshake: reads what the client says into the hub, writes what the feed holds to the
//! socket, answers pings, notices death, ends with a close. Its shard polls it when something has happened; an idle session
//! is some three hundred bytes and holds no buffer.

mod hearing;
mod undecoded;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use self::undecoded::Undecoded;
use super::close::CloseReason;
use super::closing::{Closing, Step};
use super::frame::{self, Decoder, Limits};
use super::gate::Permit;
use super::outgoing::{Control, Outgoing, Reader};
use super::pulse::{Pulse, Seat};
use super::rate::{PublishLimits, PublishRates};
use super::socket::Socket;
use super::v1;
use crate::config::SlowClient;
use crate::feed::{Cursor, Feed, News, Taken};
use crate::hub::{Answer, Hub, Membership};
use crate::message::{Format, Shape, now_ns, put_gap};
use crate::metrics::{LossCause, Metrics, Way};

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
    /// Wakes WebSockets to ping and to leave.
    pub pulse: Arc<Pulse>,
    /// Wakes event streams to comment and to leave.
    pub event_pulse: Arc<Pulse>,
    /// What a client may say at once.
    pub limits: Limits,
    /// How fast a client may publish.
    pub publish: PublishLimits,
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
    websocket: Sent,
    events: Sent,
    /// Bytes that were inflated, parsed or encoded in the current visit.
    pub(super) work: usize,
}

#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    messages: u64,
}

/// Visits of the keepalive after which a reader that lagged out in the middle of an item is closed.
const STUCK_VISITS: u8 = 2;

/// Work of one visit after which other sessions get their turn, in bytes that are inflated, parsed or encoded.
pub(super) const VISIT_WORK: usize = 256 * 1024;

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
        for (sent, transport) in [(&mut self.websocket, &metrics.websocket), (&mut self.events, &metrics.events)] {
            let Sent { bytes, messages } = std::mem::take(sent);
            if bytes > 0 {
                transport.sent_bytes.inc_by(bytes);
                transport.delivered.inc_by(messages);
            }
        }
    }

    /// Whether a session has used its visit up.
    fn is_used_up(&self) -> bool {
        self.work >= VISIT_WORK
    }

    fn sent(&mut self, way: Way) -> &mut Sent {
        if way == Way::Events { &mut self.events } else { &mut self.websocket }
    }
}

impl Shared {
    /// How long a client that is sent away should wait, in milliseconds: not all of a slot at the same moment, and not so
    /// short that event streams, which keep it for good, would hurry after every failure.
    pub fn retry_ms(&self) -> u64 {
        rand::random_range(500..1500)
    }

    fn pulse(&self, way: Way) -> &Arc<Pulse> {
        if way == Way::Events { &self.event_pulse } else { &self.pulse }
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
    /// Bytes that the client sent and that are not decoded, if there are any.
    undecoded: Option<Box<Undecoded>>,
    /// The number of the newest message this client said.
    said: u64,
    /// See [`crate::hub::Inbox::may_read`].
    inbox_round: u64,
    seat: Option<Seat>,
    visits_since_ping: u16,
    /// Visits since it lagged out in the middle of an item.
    stuck_visits: u8,
    /// Visits since the first ping after which nothing was heard.
    silent_visits: Option<u16>,
    rates: Option<Box<PublishRates>>,
    closing: Option<Box<Closing>>,
    writes: u64,
    /// Where answers to this client's messages come in, once it has asked for one.
    answers: Option<Box<Answers>>,
    permit: Permit,
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
    /// A session on a socket whose request is answered. `early` are the bytes that followed the request.
    pub(super) fn new(
        socket: Socket,
        early: Bytes,
        shared: Arc<Shared>,
        (membership, cursor): (Membership, Cursor),
        wishes: Wishes,
        permit: Permit,
    ) -> Self {
        let sender = if wishes.echo { 0 } else { shared.senders.fetch_add(1, Relaxed).max(1) };
        let rates = shared.publish.any().then(|| Box::new(PublishRates::new(shared.publish)));
        let rhythm = shared.pulse(way(wishes.format)).rhythm();
        // A client of an event stream has nothing more to say.
        let early = if way(wishes.format) == Way::Events { Bytes::new() } else { early };
        shared.metrics.websocket.received_bytes.inc_by(early.len() as u64);
        Self {
            socket,
            membership,
            cursor,
            reader: Reader { format: wishes.format, sender },
            decoder: Decoder::new(),
            control: Control::default(),
            undecoded: Undecoded::new(&early, 0, shared.hub.budget()),
            said: 0,
            inbox_round: 0,
            seat: None,
            visits_since_ping: rhythm.ping_visits - 2,
            stuck_visits: 0,
            silent_visits: None,
            rates,
            closing: None,
            writes: 0,
            answers: None,
            permit,
            shared,
        }
    }

    /// Does what can be done now; the waker rings when there is more. `news` are those of its channel's group.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, news: News<'_>, tally: &mut Tally) -> ControlFlow<Ended> {
        let mut idle = false;
        for round in 0..ROUNDS {
            let read = self.read(context, tally)?;
            if round == 0 {
                // After reading: an answer that is already here counts.
                self.visit(context)?;
            }
            self.pass_answers(context);
            let written = self.write(context, news, tally)?;
            self.close_on(context)?;
            idle = read.is_pending() && written.is_pending();
            if idle || tally.is_used_up() {
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
        let way = self.way();
        let seat = self.seat.get_or_insert_with(|| self.shared.pulse(way).join(context.waker()));
        let visits = seat.visits().min(1) as u16;
        if seat.is_cut_off() {
            return ControlFlow::Break(CloseReason::Drain);
        }
        if self.closing.is_some() {
            return ControlFlow::Continue(());
        }
        if seat.is_sent_away() {
            let retry_ms = self.shared.retry_ms();
            match self.reader.format.shape {
                Shape::V1 => self.control.push_text(v1::drain(retry_ms).as_bytes()),
                Shape::Events => self.control.push_framed(format!("retry: {retry_ms}\n\n").as_bytes()),
                Shape::Raw => {}
            }
            self.begin_close(CloseReason::Drain, "restarting, come back");
            return ControlFlow::Continue(());
        }
        if visits == 0 {
            return ControlFlow::Continue(());
        }
        let rhythm = self.shared.pulse(way).rhythm();
        self.visits_since_ping += visits;
        let ping_is_due = self.visits_since_ping >= rhythm.ping_visits;
        if ping_is_due {
            self.visits_since_ping = 0;
        }
        if self.is_stuck() {
            self.shared.metrics.slow_clients.with_label_values(&[SlowClient::Disconnect.label()]).inc();
            self.begin_close(CloseReason::Slow, "too slow, come back");
            return ControlFlow::Continue(());
        }
        if way == Way::Events {
            if ping_is_due && self.control.waiting() == 0 {
                // Proxies end streams that are silent.
                self.control.push_framed(b":\n\n");
            }
            return ControlFlow::Continue(());
        }
        if self.holds_too_long() {
            self.begin_close(CloseReason::Rate, "the rest of your message did not come in time");
            return ControlFlow::Continue(());
        }
        self.silent_visits = self.silent_visits.map(|before| before + visits);
        if !self.shared.hub.inbox().has_room_for(self.membership.channel()) {
            // It is not read from now, so it cannot be heard to answer.
            self.silent_visits = self.silent_visits.map(|_| 0);
        }
        if self.silent_visits.is_some_and(|silent| silent >= rhythm.dead_visits) {
            self.begin_close(CloseReason::PingTimeout, "no answer to a ping");
            return ControlFlow::Continue(());
        }
        if ping_is_due {
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
        if outgoing.encoded > 0 {
            tally.work += outgoing.encoded;
            self.cursor.account(taken);
            self.shared.hub.make_room();
        }
        if outgoing.is_empty() {
            if taken.is_empty() {
                return ControlFlow::Continue(Poll::Pending);
            }
            // Marks that this format does not show, or its own messages.
            outgoing.progress(0).apply(&mut self.cursor, taken, &mut self.control, self.reader);
            return ControlFlow::Continue(Poll::Ready(()));
        }
        let written = match self.socket.write(&outgoing.slices()) {
            Poll::Ready(Ok(written)) if written > 0 => written,
            Poll::Ready(_) => {
                self.socket.reset_on_close();
                return ControlFlow::Break(self.reason_or_disconnected());
            }
            Poll::Pending => return ControlFlow::Continue(Poll::Pending),
        };
        let progress = outgoing.progress(written);
        // While these waited it may not have read: it looks again once they are written.
        let had_control = self.control.waiting() > 0;
        let live = !self.cursor.is_replaying();
        progress.apply(&mut self.cursor, taken, &mut self.control, self.reader);
        let sent = tally.sent(self.way());
        sent.bytes += written as u64;
        sent.messages += progress.messages;
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
            let mut mark = Vec::new();
            put_gap(self.reader.format, missed, &mut mark);
            self.control.push_framed(&mark);
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
        let way = self.way();
        if let Some(closing) = self.closing.as_deref_mut() {
            if way == Way::WebSocket {
                self.control.push(frame::Control::Close(Some((closing.code, &closing.text))));
            }
            closing.step = Step::Say;
            self.cursor.retire();
        }
    }

    /// Takes an ending as far as it goes now.
    fn close_on(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended> {
        let Some(closing) = self.closing.as_deref_mut() else { return ControlFlow::Continue(()) };
        let item_ended = self.cursor.unfinished_item(self.reader.format).is_none();
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
            _ if late => {
                // It does not read: the kernel would keep for minutes what it has not taken.
                self.socket.reset_on_close();
                return ControlFlow::Break(closing.reason);
            }
            Step::Say if self.control.waiting() == 0 && item_ended => {
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

    /// Whether it has lagged out and not ended the item that it was in for two visits of the keepalive: until then nothing
    /// lets go of that batch, also where slow clients are skipped ahead.
    fn is_stuck(&mut self) -> bool {
        self.stuck_visits = if self.cursor.is_stuck() { self.stuck_visits + 1 } else { 0 };
        self.stuck_visits >= STUCK_VISITS
    }

    /// Whether its group brings what comes.
    pub(super) fn rests(&self) -> bool {
        self.reads_on() && self.cursor.rests()
    }

    /// The number of the newest message this client said.
    pub(super) fn said(&self) -> u64 {
        self.said
    }

    /// Whether its first visit may be expensive: what was said before has to be encoded for it.
    pub(super) fn begins_heavy(&self) -> bool {
        self.reader.format != Format::RAW && self.cursor.is_replaying()
    }

    /// The feed it reads.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.membership.channel().feed
    }

    /// Whether messages still go to this client.
    fn reads_on(&self) -> bool {
        self.closing.as_ref().is_none_or(|closing| matches!(closing.step, Step::Deliver { .. }))
    }

    fn way(&self) -> Way {
        way(self.reader.format)
    }

    fn reason_or_disconnected(&self) -> CloseReason {
        self.closing.as_ref().map_or(CloseReason::Disconnected, |closing| closing.reason)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Counts what it ended for.
    pub(super) fn end(&self, reason: CloseReason) {
        self.shared.metrics.of(self.way()).closed(reason.label());
        tracing::debug!(reason = reason.label(), "disconnected");
    }
}

pub(super) fn way(format: Format) -> Way {
    if format.shape == Shape::Events { Way::Events } else { Way::WebSocket }
}
