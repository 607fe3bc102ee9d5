//! One WebSocket's life after its handshake: reads what the client says into the hub, writes what
//! the history and then the feed hold to the socket, answers pings, notices death, ends with a
//! close. Its shard polls it when something has happened; an idle session is some three hundred
//! bytes and holds no buffer.

mod ending;
mod input;
mod keepalive;
mod lagging;
mod replay;
mod shared;
mod stage;
mod tally;
mod undecoded;

use std::num::NonZeroU8;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

pub(super) use self::replay::Replay;
pub use self::shared::Shared;
use self::stage::Stage;
pub(super) use self::tally::Tally;
use self::undecoded::Undecoded;
use super::closing::{Closing, Step};
use super::output::{Output, Recipient, WriteBuffer};
use super::socket::Socket;
use super::v1;
use crate::client::close_reason::CloseReason;
use crate::client::connection_limits::Permit;
use crate::client::keepalive::Registration;
use crate::client::rate::PublishRates;
use crate::feed::{Cursor, Feed, GroupBatches, Taken};
use crate::frame::Decoder;
use crate::hub::{Answer, Membership, Subscription};
use crate::message::{Format, Sequence, Shape, now_ns};
use crate::metrics::Transport;

/// Rounds of reading and writing before other sessions get their turn.
const ROUNDS: usize = 8;

/// One delivery in this many is timed: two clock readings would cost more than the rest of the
/// bookkeeping.
const TIMED_DELIVERY: u64 = 16;

/// Options of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// The format in which it receives messages.
    pub format: Format,
    /// Whether it receives its own messages.
    pub echo: bool,
    /// How much of its earlier deflated messages the next one may refer to, as a power of two.
    pub client_history: Option<NonZeroU8>,
}

/// A connected client.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    shared: Arc<Shared>,
    membership: Membership,
    cursor: Cursor,
    recipient: Recipient,
    decoder: Decoder,
    write_buffer: WriteBuffer,
    /// Bytes that the client sent and that are not decoded, if there are any.
    undecoded: Option<Box<Undecoded>>,
    /// The number of the newest message this client said.
    said: Sequence,
    /// See [`crate::hub::Inbox::may_read`].
    inbox_round: u64,
    registration: Option<Registration>,
    visits_since_ping: u16,
    /// Visits since it lagged out in the middle of an item.
    stuck_visits: u8,
    /// Visits since the first ping after which nothing was heard.
    silent_visits: Option<u16>,
    rates: Option<Box<PublishRates>>,
    /// `None` while it follows the live feed.
    stage: Option<Box<Stage>>,
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
    /// A session on a socket whose request is answered. It is sent the greeting first. `early` are
    /// the bytes that followed the request.
    pub(super) fn new(
        socket: Socket,
        early: Bytes,
        shared: Arc<Shared>,
        subscription: Subscription,
        SessionOptions {
            format,
            echo,
            client_history,
        }: SessionOptions,
        permit: Permit,
        greeting: &[u8],
    ) -> Self {
        let (membership, cursor, stage) = if subscription.is_live() {
            let (membership, cursor) = subscription.into_live();
            (membership, cursor, None)
        } else {
            let membership = subscription.membership();
            let cursor = Cursor::detached(membership.channel().feed.clone(), 0);
            let replay = Box::new(Stage::Replay(Replay::new(subscription)));
            (membership, cursor, Some(replay))
        };
        let sender = if echo {
            0
        } else {
            shared.senders.fetch_add(1, Relaxed).max(1)
        };
        let rates = shared
            .publish
            .any()
            .then(|| Box::new(PublishRates::new(shared.publish)));
        let schedule = shared.keepalive(transport(format)).schedule();
        // A client of an event stream has nothing more to say.
        let early = if transport(format) == Transport::Events {
            Bytes::new()
        } else {
            early
        };
        shared
            .metrics
            .websocket
            .received_bytes
            .inc_by(early.len() as u64);
        Self {
            socket,
            membership,
            cursor,
            recipient: Recipient { format, sender },
            decoder: Decoder::with_history(client_history),
            write_buffer: WriteBuffer::framed(greeting),
            undecoded: Undecoded::new(&early, 0, shared.hub.budget()),
            said: Sequence::default(),
            inbox_round: 0,
            registration: None,
            visits_since_ping: schedule.before_first_ping(),
            stuck_visits: 0,
            silent_visits: None,
            rates,
            stage,
            writes: 0,
            answers: None,
            permit,
            shared,
        }
    }

    /// Does what can be done now; the waker rings when there is more. `group_batches` are
    /// those of its channel's group.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        group_batches: GroupBatches<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<Ended> {
        let mut idle = false;
        for round in 0..ROUNDS {
            let read = self.read(context, tally)?;
            if round == 0 {
                // After reading: an answer that is already here counts.
                self.visit(context)?;
            }
            self.pass_answers(context);
            let written = self.write(context, group_batches, tally)?;
            self.close_on(context)?;
            idle = read.is_pending() && written.is_pending();
            if idle || tally.is_used_up() {
                break;
            }
        }
        if !idle {
            context.waker().wake_by_ref();
        }
        if self.rests() && self.cursor.position() < group_batches.end() {
            // The group does not wait for it.
            self.cursor.leave_group(context.waker());
        }
        ControlFlow::Continue(())
    }

    /// Writes once; pending if there is nothing to write or the client does not take more now.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        group_batches: GroupBatches<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<Ended, Poll<()>> {
        let mut own = Taken::new();
        let mut taken: &[_] = &[];
        let mut frame_end = None;
        let mut reaches_end = false;
        if !self.reads_on() {
            if self.closing().is_none() {
                return self.write_older(context, tally);
            }
            if self.only_reads() {
                return ControlFlow::Continue(Poll::Pending);
            }
            if let Some((batch, end)) = self.cursor.unfinished_item(self.recipient.format) {
                own.push(batch);
                (taken, frame_end) = (&own, Some(end));
            }
        } else if let Some(batches) = self.cursor.unread(group_batches) {
            taken = batches;
            reaches_end = self.cursor.position() + taken.len() as u64 >= group_batches.end();
        } else if self
            .cursor
            .take_or_join_group(context.waker(), &mut own)
            .is_ok()
        {
            taken = &own;
        } else {
            frame_end = self.lagged(&mut own);
            if frame_end.is_none() && self.reads_on() {
                return ControlFlow::Continue(Poll::Ready(()));
            }
            taken = &own;
        }
        let output = match frame_end {
            Some(end) => Output::last(taken, end, &self.cursor, &self.write_buffer, self.recipient),
            None => Output::all(taken, &self.cursor, &self.write_buffer, self.recipient),
        };
        if output.encoded > 0 {
            tally.work += output.encoded;
            self.cursor.account(taken);
            self.shared.hub.make_room();
        }
        if output.is_empty() {
            if taken.is_empty() {
                return ControlFlow::Continue(Poll::Pending);
            }
            // Marks that this format does not show, or its own messages.
            output.progress(0).apply(
                &mut self.cursor,
                taken,
                &mut self.write_buffer,
                self.recipient,
            );
            return ControlFlow::Continue(Poll::Ready(()));
        }
        let written = self.socket.write(&output.slices());
        let written = match written {
            Poll::Ready(Ok(written)) if written > 0 => written,
            Poll::Ready(_) => return self.write_failed(),
            Poll::Pending => return ControlFlow::Continue(Poll::Pending),
        };
        let progress = output.progress(written);
        // While these waited it may not have read: it looks again once they are written.
        let had_control = self.write_buffer.waiting() > 0;
        let live = !self.cursor.is_replaying();
        progress.apply(
            &mut self.cursor,
            taken,
            &mut self.write_buffer,
            self.recipient,
        );
        let sent = tally.sent(self.transport());
        sent.bytes += written as u64;
        sent.messages += progress.messages;
        if let Some(batch) = taken.first().filter(|_| live && progress.batch > 0) {
            if self.writes.is_multiple_of(TIMED_DELIVERY) {
                self.shared
                    .metrics
                    .delivery_seconds
                    .observe(now_ns().saturating_sub(batch.published_ns) as f64 / 1e9);
            }
            self.writes += 1;
        }
        let all = reaches_end && progress.batch == taken.len() && !had_control;
        ControlFlow::Continue(if all { Poll::Pending } else { Poll::Ready(()) })
    }

    /// Whether its group brings what comes.
    pub(super) fn rests(&self) -> bool {
        self.reads_on() && self.cursor.is_in_group()
    }

    /// The number of the newest message this client said.
    pub(super) fn said(&self) -> Sequence {
        self.said
    }

    /// Whether its first visit may be expensive: what was said before has to be encoded for it.
    pub(super) fn begins_heavy(&self) -> bool {
        self.recipient.format != Format::RAW && self.cursor.is_replaying()
    }

    /// The feed it reads.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.membership.channel().feed
    }

    fn transport(&self) -> Transport {
        transport(self.recipient.format)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

pub(super) fn transport(format: Format) -> Transport {
    if format.shape == Shape::Events {
        Transport::Events
    } else {
        Transport::WebSocket
    }
}
