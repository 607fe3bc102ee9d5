//! One client's connection after its handshake, a WebSocket or an event stream. Its shard polls it
//! when something has happened; an idle session is some three hundred bytes and holds no buffer.
//!
//! | part | answers |
//! |---|---|
//! | [`Input`] | which messages the client publishes, and whether it may be read from now |
//! | [`Output`] | which bytes the client gets next: of the live feed, or its own frames |
//! | [`Liveness`] | when to ping, and whether the client is dead or stuck |
//! | [`Stage`] | what it does instead of following the feed: a replay before, the end after |
//!
//! Event streams are sessions, too. They publish nothing, and get comments instead of pings.

mod answers;
mod closing;
mod ending;
mod input;
mod lagging;
mod liveness;
mod output;
mod publishing;
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

use self::input::Input;
use self::liveness::Liveness;
use self::output::Output;
use self::replay::Replay;
pub use self::shared::Shared;
use self::stage::Stage;
pub(super) use self::tally::Tally;
use super::opening::Opening;
use super::socket::Socket;
use super::write_plan::Recipient;
use crate::client::close_reason::CloseReason;
use crate::client::connection_limits::Permit;
use crate::feed::{Cursor, Feed, GroupBatches};
use crate::hub::{Membership, Subscription};
use crate::message::{Format, Sequence, Shape};
use crate::metrics::Transport;

/// Rounds of reading and writing in one visit. Then other sessions get their turn.
const ROUNDS: usize = 8;

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
    input: Input,
    output: Output,
    liveness: Liveness,
    /// `None` while it follows the live feed, which is most of its life.
    stage: Option<Box<Stage>>,
    /// Its share of the connection limits.
    permit: Permit,
}

/// Why a poll ended the session at once.
type Ended = CloseReason;

/// The result of one read or write, unless it ended the session: [`READY`] or [`PENDING`].
type Progress = ControlFlow<Ended, Poll<()>>;

/// Something was done, and another try may do more.
const READY: Progress = ControlFlow::Continue(Poll::Ready(()));

/// Nothing more can be done now.
const PENDING: Progress = ControlFlow::Continue(Poll::Pending);

/// Where a session begins to read its channel.
struct Beginning {
    membership: Membership,
    cursor: Cursor,
    stage: Option<Box<Stage>>,
}

impl Session {
    /// A session on a socket whose request is answered. `early` are the bytes that followed the
    /// request.
    pub(super) fn new(socket: Socket, early: Bytes, opening: Opening) -> Self {
        let Opening {
            shared,
            subscription,
            options,
            permit,
            greeting,
            ..
        } = opening;
        let Beginning {
            membership,
            cursor,
            stage,
        } = Beginning::of(subscription);
        let recipient = Recipient {
            format: options.format,
            sender: sender_mark(options.echo, &shared),
        };
        let transport = transport(options.format);
        Self {
            socket,
            membership,
            input: Input::new(early, transport, options.client_history, &shared),
            output: Output::new(cursor, recipient, &greeting),
            liveness: Liveness::new(shared.keepalive(transport).schedule()),
            stage,
            permit,
            shared,
        }
    }

    /// Does all that can be done now. The waker wakes the session when there is more.
    /// `group_batches` are those of its channel's group.
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
                // After reading, so that an answer to a ping that is already here counts.
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
        if self.rests() && self.output.cursor.position() < group_batches.end() {
            // Its socket is full. The group must not wait for it.
            self.output.cursor.leave_group(context.waker());
        }
        ControlFlow::Continue(())
    }

    /// Whether its group takes the next batches for it.
    pub(super) fn rests(&self) -> bool {
        self.follows_feed() && self.output.cursor.is_in_group()
    }

    /// The newest message that this client published.
    pub(super) fn published(&self) -> Sequence {
        self.input.published
    }

    /// Whether its first visit may be expensive, because older messages have to be encoded for it.
    pub(super) fn begins_heavy(&self) -> bool {
        self.output.recipient.format != Format::RAW && self.output.cursor.is_replaying()
    }

    /// The feed it reads.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.membership.channel().feed
    }

    fn transport(&self) -> Transport {
        transport(self.output.recipient.format)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Beginning {
    fn of(subscription: Subscription) -> Self {
        if subscription.is_live() {
            let (membership, cursor) = subscription.into_live();
            return Self {
                membership,
                cursor,
                stage: None,
            };
        }
        // The replay keeps the subscription. The session's cursor reads pages until it is over.
        let membership = subscription.membership();
        Self {
            cursor: Cursor::detached(membership.channel().feed.clone(), 0),
            membership,
            stage: Some(Box::new(Stage::Replay(Replay::new(subscription)))),
        }
    }
}

/// The mark by which a client that does not want its own messages recognizes them; 0 if it wants
/// them.
fn sender_mark(echo: bool, shared: &Shared) -> u32 {
    if echo {
        0
    } else {
        // 0 comes round again after four billion.
        shared.senders.fetch_add(1, Relaxed).max(1)
    }
}

/// The transport on which clients receive this format.
pub(super) fn transport(format: Format) -> Transport {
    if format.shape == Shape::Events {
        Transport::Events
    } else {
        Transport::WebSocket
    }
}
