//! One WebSocket's life after its handshake: reads what the client says into the hub, writes what the feed holds to the
//! socket, answers pings, notices death, ends with a close. One task each, hand-written as a future: an idle session is
//! some two hundred bytes and holds no buffer.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::close::CloseReason;
use super::closing::{Closing, Step};
use super::frame::{self, Decoder, Event, Limits};
use super::gate::Permit;
use super::outgoing::{Control, Outgoing, advance};
use super::pulse::{Pulse, Seat};
use super::rate::Rate;
use crate::config::SlowClient;
use crate::feed::{Cursor, Taken};
use crate::hub::{Hub, Membership};
use crate::message::now_ns;
use crate::metrics::{LossCause, Metrics, WEBSOCKET};
use crate::telemetry;

/// One read takes this much at most. The buffer is the worker thread's, not the session's.
const READ_BYTES: usize = 64 * 1024;

/// Control frames a client may leave unread before we no longer read from it.
const CONTROL_BYTES: usize = 4 * 1024;

/// Rounds of reading and writing before other sessions get their turn.
const ROUNDS: usize = 8;

/// One delivery in this many is timed: two clock readings would cost more than the rest of the bookkeeping.
const TIMED_DELIVERY: u64 = 16;

thread_local! {
    /// Where sockets are read into; nothing in it outlives one call.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

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
}

/// A connected client.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    shared: Arc<Shared>,
    membership: Membership,
    cursor: Cursor,
    decoder: Decoder,
    control: Control,
    /// Bytes that came together with the handshake.
    early: Bytes,
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
    _permit: Permit,
}

/// Why a poll ended the session at once.
type Ended = CloseReason;

impl Session {
    /// A session on a socket whose handshake is answered. `early` are the bytes that followed the handshake.
    pub fn new(
        stream: TcpStream,
        early: Bytes,
        shared: Arc<Shared>,
        membership: Membership,
        cursor: Cursor,
        permit: Permit,
    ) -> Self {
        let rate = shared.message_rate.map(|limit| Box::new(Rate::new(limit)));
        Self {
            stream,
            membership,
            cursor,
            decoder: Decoder::new(),
            control: Control::default(),
            // Empty, it would still keep the HTTP server's whole buffer alive.
            early: if early.is_empty() { Bytes::new() } else { early },
            said: 0,
            inbox_round: 0,
            seat: None,
            visits_since_ping: shared.pulse.rhythm().ping_visits - 2,
            silent_visits: None,
            rate,
            closing: None,
            writes: 0,
            _permit: permit,
            shared,
        }
    }

    fn drive(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended> {
        for round in 0..ROUNDS {
            let read = self.read(context)?;
            if round == 0 {
                // After reading: an answer that is already here counts.
                self.visit(context)?;
            }
            let written = self.write(context)?;
            self.close_on(context)?;
            if read.is_pending() && written.is_pending() {
                return ControlFlow::Continue(());
            }
        }
        context.waker().wake_by_ref();
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

    /// Reads once; pending if there is nothing to read or no reading now.
    fn read(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended, Poll<()>> {
        if self.closing.is_some() {
            return self.discard(context);
        }
        // A client that does not read its pongs gets no new ones: its socket is looked at again once they are written.
        let may_read =
            self.control.held() < CONTROL_BYTES && self.shared.hub.inbox().may_read(context, &mut self.inbox_round);
        if !may_read {
            return ControlFlow::Continue(Poll::Pending);
        }
        if !self.early.is_empty() {
            let mut early = Vec::from(std::mem::take(&mut self.early));
            self.hear(&mut early);
            return ControlFlow::Continue(Poll::Ready(()));
        }
        SCRATCH.with_borrow_mut(|scratch| match self.receive(context, scratch) {
            Poll::Pending => ControlFlow::Continue(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => ControlFlow::Break(CloseReason::Disconnected),
            Poll::Ready(Ok(bytes)) => {
                self.hear(&mut scratch[..bytes]);
                ControlFlow::Continue(Poll::Ready(()))
            }
        })
    }

    fn receive(&self, context: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.try_read(scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.stream.poll_read_ready(context))?,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Throws away what a client says after the end began, and notices when it hangs up.
    fn discard(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended, Poll<()>> {
        let Some(Closing { reason, step, hung_up, .. }) = self.closing.as_deref() else {
            return ControlFlow::Continue(Poll::Pending);
        };
        let (reason, step, hung_up) = (*reason, *step, *hung_up);
        let ended = hung_up
            || match SCRATCH.with_borrow_mut(|scratch| self.receive(context, scratch)) {
                Poll::Pending => return ControlFlow::Continue(Poll::Pending),
                Poll::Ready(Ok(bytes)) => bytes == 0,
                Poll::Ready(Err(_)) => return ControlFlow::Break(reason),
            };
        match (ended, &mut self.closing) {
            (true, _) if step == Step::Linger => ControlFlow::Break(reason),
            (true, Some(closing)) => {
                closing.hung_up = true;
                ControlFlow::Continue(Poll::Pending)
            }
            _ => ControlFlow::Continue(Poll::Ready(())),
        }
    }

    /// Takes in bytes from the client.
    fn hear(&mut self, bytes: &mut [u8]) {
        if let Some((reason, code, text)) = self.publish(bytes) {
            self.begin_close_with(reason, code, text);
        }
    }

    /// Says on the channel what the client said; returns how it ends, if it does.
    fn publish(&mut self, bytes: &mut [u8]) -> Option<(CloseReason, u16, String)> {
        let Self { shared, membership, decoder, control, said, rate, .. } = self;
        let (hub, channel) = (&shared.hub, membership.channel());
        shared.metrics.received_bytes.inc_by(bytes.len() as u64);
        self.silent_visits = None;
        let mut end = None;
        let mut publication = None;
        let outcome = decoder.decode(&shared.limits, bytes, |event| match event {
            // What follows a broken limit or a close is not heard.
            _ if end.is_some() => {}
            Event::Message { .. } if rate.as_deref_mut().is_some_and(|rate| !rate.allows()) => {
                end = Some((CloseReason::Rate, CloseReason::Rate.code(), "too many messages a second".to_owned()));
            }
            Event::Message { kind, payload } => {
                if shared.log_messages {
                    telemetry::log_message(channel.name.as_str(), kind, payload);
                }
                *said = publication.get_or_insert_with(|| channel.publish(hub.inbox())).push(kind, payload);
            }
            Event::Ping(payload) => control.push(frame::Control::Pong(payload)),
            Event::Pong(_) => {}
            Event::Close(given) => {
                let (code, text) = given.unwrap_or((CloseReason::Client.code(), ""));
                end = Some((CloseReason::Client, code, text.to_owned()));
            }
        });
        if let Some(publication) = publication {
            shared.metrics.messages_received.inc_by(publication.messages() as u64);
        }
        end.or_else(|| outcome.err().map(|bad| (bad.into(), bad.close_code(), bad.to_string())))
    }

    /// Writes once; pending if there is nothing to write or the client does not take more now.
    fn write(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended, Poll<()>> {
        let mut taken = Taken::new();
        let mut frame_end = None;
        if self.reads_on() {
            if let Poll::Ready(Err(_lagged)) = self.cursor.poll_take(context, &mut taken) {
                frame_end = self.lagged(&mut taken);
                if frame_end.is_none() && self.reads_on() {
                    return ControlFlow::Continue(Poll::Ready(()));
                }
            }
        } else if let Some((batch, end)) = self.cursor.unfinished_frame() {
            taken.push(batch);
            frame_end = Some(end);
        }
        let outgoing = match frame_end {
            Some(end) => Outgoing::last(&taken, end, &self.cursor, &self.control),
            None => Outgoing::all(&taken, &self.cursor, &self.control),
        };
        if outgoing.is_empty() {
            return ControlFlow::Continue(Poll::Pending);
        }
        let written = loop {
            match self.stream.try_write_vectored(&outgoing.slices()) {
                Ok(0) => return ControlFlow::Break(self.reason_or_disconnected()),
                Ok(written) => break written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.stream.poll_write_ready(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return ControlFlow::Break(self.reason_or_disconnected()),
                    Poll::Pending => return ControlFlow::Continue(Poll::Pending),
                },
                Err(_) => return ControlFlow::Break(self.reason_or_disconnected()),
            }
        };
        let divided = outgoing.divide(written);
        let live = !self.cursor.is_replaying();
        let progress = advance(&mut self.cursor, &taken, &mut self.control, divided);
        let metrics = &self.shared.metrics;
        metrics.sent_bytes.inc_by(written as u64);
        if progress.messages > 0 {
            metrics.messages_delivered.inc_by(progress.messages);
        }
        if let Some(batch) = taken.first().filter(|_| live && progress.batches > 0) {
            if self.writes.is_multiple_of(TIMED_DELIVERY) {
                metrics.delivery_seconds.observe(now_ns().saturating_sub(batch.published_ns) as f64 / 1e9);
            }
            self.writes += 1;
        }
        ControlFlow::Continue(Poll::Ready(()))
    }

    /// The feed has moved on without this reader. A frame that was begun is ended first: its batch goes into `taken`
    /// and its end is returned. Then the reader is closed or skipped ahead.
    fn lagged(&mut self, taken: &mut Taken) -> Option<usize> {
        let policy = self.shared.slow_client;
        let unfinished = self.cursor.unfinished_frame();
        if policy == SlowClient::Disconnect {
            self.shared.metrics.slow_clients.with_label_values(&[policy.label()]).inc();
            // One that was ending anyway ends here, with what it has.
            match &mut self.closing {
                Some(_) => self.say_close(),
                None => self.begin_close(CloseReason::Slow, "too slow, come back"),
            }
        } else if unfinished.is_none() {
            self.shared.metrics.slow_clients.with_label_values(&[policy.label()]).inc();
            self.shared.metrics.lost(LossCause::SlowClient, self.cursor.skip_to_newest());
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
                if late || until.is_some_and(|until| self.cursor.position() >= until) {
                    closing.extend();
                    self.say_close();
                    context.waker().wake_by_ref();
                }
            }
            _ if late => return ControlFlow::Break(closing.reason),
            Step::Say if self.control.waiting() == 0 => {
                let shut = Pin::new(&mut self.stream).poll_shutdown(context);
                if closing.hung_up || matches!(shut, Poll::Ready(Err(_))) {
                    return ControlFlow::Break(closing.reason);
                }
                closing.step = Step::Linger;
                context.waker().wake_by_ref();
            }
            Step::Say | Step::Linger => {}
        }
        ControlFlow::Continue(())
    }

    /// Whether messages still go to this client.
    fn reads_on(&self) -> bool {
        self.closing.as_ref().is_none_or(|closing| matches!(closing.step, Step::Deliver { .. }))
    }

    fn reason_or_disconnected(&self) -> CloseReason {
        self.closing.as_ref().map_or(CloseReason::Disconnected, |closing| closing.reason)
    }
}

impl Future for Session {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CloseReason> {
        match self.drive(context) {
            ControlFlow::Continue(()) => Poll::Pending,
            ControlFlow::Break(reason) => {
                self.shared.metrics.connections_closed.with_label_values(&[WEBSOCKET, reason.label()]).inc();
                Poll::Ready(reason)
            }
        }
    }
}
