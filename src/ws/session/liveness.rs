//! The liveness of a session: pings, comments in event streams, and the ends that come with time.
//! The keepalive wakes a session at each visit of its slot; the session counts these visits.

use std::ops::ControlFlow;
use std::task::Context;

use super::{CloseReason, Ended, Session};
use crate::client::keepalive::{PingSchedule, Registration};
use crate::frame::ControlFrame;
use crate::message::Shape;
use crate::metrics::Transport;
use crate::ws::v1;

/// Visits after which a session is closed that lagged out in the middle of an item.
const STUCK_VISITS: u8 = 2;

/// What keeps a session alive. Times are counted in visits of the keepalive.
#[derive(Debug)]
pub(super) struct Liveness {
    /// `None` before the first poll, which brings the waker.
    registration: Option<Registration>,
    /// Since the last ping was due.
    since_ping: u16,
    /// Since it was first seen stuck: see [`Session::is_stuck`].
    stuck: u8,
    /// Since the first ping after which the client sent nothing.
    pub(super) silent: Option<u16>,
}

impl Liveness {
    pub(super) fn new(schedule: PingSchedule) -> Self {
        Self {
            registration: None,
            since_ping: schedule.before_first_ping(),
            stuck: 0,
            silent: None,
        }
    }

    /// Counts visits; returns whether a ping is due.
    fn count(&mut self, visits: u16, schedule: PingSchedule) -> bool {
        self.since_ping += visits;
        let is_due = self.since_ping >= schedule.ping_visits;
        if is_due {
            self.since_ping = 0;
        }
        is_due
    }
}

impl Session {
    /// Does what is due, if the keepalive has visited the session's slot.
    pub(super) fn visit(&mut self, context: &Context<'_>) -> ControlFlow<Ended> {
        let transport = self.transport();
        let keepalive = self.shared.keepalive(transport);
        let registration = self
            .liveness
            .registration
            .get_or_insert_with(|| keepalive.join(context.waker()));
        // After a stall several visits count as one: the client may have had no time to answer.
        let visits = registration.visits().min(1) as u16;
        if registration.is_cut_off() {
            return ControlFlow::Break(CloseReason::Drain);
        }
        let must_leave = registration.must_leave();
        // An ending has deadlines of its own.
        if self.closing().is_some() {
            return ControlFlow::Continue(());
        }
        if must_leave {
            self.drain();
        } else if visits > 0 {
            self.check_liveness(transport, visits);
        }
        ControlFlow::Continue(())
    }

    /// Ends the session because its node stops. The client learns when to come back.
    fn drain(&mut self) {
        let retry_ms = self.shared.retry_ms();
        let buffer = &mut self.output.buffer;
        match self.output.recipient.format.shape {
            Shape::V1 => buffer.push_text(v1::drain(retry_ms).as_bytes()),
            Shape::Events => buffer.push_framed(format!("retry: {retry_ms}\n\n").as_bytes()),
            Shape::Raw => {}
        }
        self.begin_close(CloseReason::Drain, "restarting, come back");
    }

    /// Pings when that is due. Ends a session that keeps memory from others, or is dead.
    fn check_liveness(&mut self, transport: Transport, visits: u16) {
        let schedule = self.shared.keepalive(transport).schedule();
        // Counted in any case, so that the next ping comes in time.
        let ping_is_due = self.liveness.count(visits, schedule);
        if self.is_stuck() {
            return self.close_slow();
        }
        if transport == Transport::WebSocket {
            return self.check_websocket(schedule, visits, ping_is_due);
        }
        if ping_is_due && self.output.buffer.waiting() == 0 {
            // A comment, because proxies end streams that are silent.
            self.output.buffer.push_framed(b":\n\n");
        }
    }

    /// Whether it has lagged out and has not ended the item that it was in for two visits. The
    /// item's batch stays in memory until then, also where slow clients are skipped ahead.
    fn is_stuck(&mut self) -> bool {
        self.liveness.stuck = if self.output.cursor.is_stuck() {
            self.liveness.stuck + 1
        } else {
            0
        };
        self.liveness.stuck >= STUCK_VISITS
    }

    fn check_websocket(&mut self, schedule: PingSchedule, visits: u16, ping_is_due: bool) {
        if let Some(why) = self.holds_input_too_long() {
            return self.begin_close(CloseReason::Rate, why);
        }
        self.count_silence(visits);
        if self.is_dead(schedule) {
            return self.end_silent();
        }
        // After the check: a new ping must not extend the time of one that is unanswered.
        if ping_is_due {
            self.ping();
        }
    }

    /// Counts visits without anything from the client, but not while it is not read from: its
    /// answer may be in the kernel.
    fn count_silence(&mut self, visits: u16) {
        let channel = self.membership.channel();
        let is_read = self.shared.hub.inbox().has_room_for(channel);
        self.liveness.silent = self
            .liveness
            .silent
            .map(|before| if is_read { before + visits } else { 0 });
    }

    /// Whether its answer to a ping is overdue.
    fn is_dead(&mut self, schedule: PingSchedule) -> bool {
        let silent = self.liveness.silent.unwrap_or(0);
        if self.liveness.silent.is_none() || silent < schedule.dead_visits {
            return false;
        }
        let timeout = schedule.period * u32::from(schedule.dead_visits);
        if self.socket.is_being_taken(timeout) {
            // The ping lies behind bytes that the client is taking. Its answer is due a timeout
            // after these.
            self.liveness.silent = Some(0);
            return false;
        }
        true
    }

    fn ping(&mut self) {
        self.liveness.silent.get_or_insert(0);
        // One ping that waits is enough for a client that takes nothing.
        if !self.output.buffer.ends_with_ping() {
            self.output.buffer.push(ControlFrame::Ping(&[]));
        }
    }

    /// Ends a session that seems dead. If it is not read from because it leaves its answers unread,
    /// it may well have sent something: then it is too slow.
    fn end_silent(&mut self) {
        if self.leaves_answers_unread() {
            self.close_slow();
        } else {
            self.begin_close(CloseReason::PingTimeout, "no answer to a ping");
        }
    }
}
