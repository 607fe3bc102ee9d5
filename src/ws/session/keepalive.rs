//! The visits of the keepalive: pings, comments in event streams, and the ends that come with time.

use std::ops::ControlFlow;
use std::task::Context;

use super::{CloseReason, Ended, Session, Stage, v1};
use crate::config::SlowClient;
use crate::frame::ControlFrame;
use crate::message::Shape;
use crate::metrics::Transport;

impl Session {
    /// Does what is due when the keepalive came by.
    pub(super) fn visit(&mut self, context: &Context<'_>) -> ControlFlow<Ended> {
        let transport = self.transport();
        let registration = self
            .registration
            .get_or_insert_with(|| self.shared.keepalive(transport).join(context.waker()));
        let visits = registration.visits().min(1) as u16;
        if registration.is_cut_off() {
            return ControlFlow::Break(CloseReason::Drain);
        }
        if self.stage.as_deref().and_then(Stage::closing).is_some() {
            return ControlFlow::Continue(());
        }
        if registration.must_leave() {
            self.drain();
        } else if visits > 0 {
            self.look_after(transport, visits);
        }
        ControlFlow::Continue(())
    }

    fn drain(&mut self) {
        let retry_ms = self.shared.retry_ms();
        match self.recipient.format.shape {
            Shape::V1 => self.write_buffer.push_text(v1::drain(retry_ms).as_bytes()),
            Shape::Events => self
                .write_buffer
                .push_framed(format!("retry: {retry_ms}\n\n").as_bytes()),
            Shape::Raw => {}
        }
        self.begin_close(CloseReason::Drain, "restarting, come back");
    }

    /// Pings when that is due, and ends a session that keeps others from something or does not
    /// answer.
    fn look_after(&mut self, transport: Transport, visits: u16) {
        let schedule = self.shared.keepalive(transport).schedule();
        self.visits_since_ping += visits;
        let ping_is_due = self.visits_since_ping >= schedule.ping_visits;
        if ping_is_due {
            self.visits_since_ping = 0;
        }
        if self.is_stuck() {
            self.shared
                .metrics
                .slow_clients
                .with_label_values(&[SlowClient::Disconnect.label()])
                .inc();
            self.begin_close(CloseReason::Slow, "too slow, come back");
            return;
        }
        if transport == Transport::Events {
            if ping_is_due && self.write_buffer.waiting() == 0 {
                // Proxies end streams that are silent.
                self.write_buffer.push_framed(b":\n\n");
            }
            return;
        }
        if let Some(why) = self.holds_too_long() {
            self.begin_close(CloseReason::Rate, why);
            return;
        }
        self.silent_visits = self.silent_visits.map(|before| before + visits);
        if !self
            .shared
            .hub
            .inbox()
            .has_room_for(self.membership.channel())
        {
            // It is not read from now, so it cannot be heard to answer.
            self.silent_visits = self.silent_visits.map(|_| 0);
        }
        if self
            .silent_visits
            .is_some_and(|silent| silent >= schedule.dead_visits)
        {
            if !self
                .socket
                .is_being_taken(schedule.period * u32::from(schedule.dead_visits))
            {
                self.end_silent();
                return;
            }
            // The ping lies behind bytes that the client is taking: its answer is due a timeout
            // after these.
            self.silent_visits = Some(0);
        }
        if ping_is_due {
            self.silent_visits.get_or_insert(0);
            // One that waits already is enough for a client that takes nothing: others would only
            // add to what it leaves.
            if !self.write_buffer.ends_with_ping() {
                self.write_buffer.push(ControlFrame::Ping(&[]));
            }
        }
    }

    /// Ends a session of which nothing was heard. One that was not read from, because it leaves its
    /// answers unread, may well have spoken: it is too slow.
    fn end_silent(&mut self) {
        if self.leaves_its_answers() {
            self.shared
                .metrics
                .slow_clients
                .with_label_values(&[SlowClient::Disconnect.label()])
                .inc();
            self.begin_close(CloseReason::Slow, "too slow, come back");
        } else {
            self.begin_close(CloseReason::PingTimeout, "no answer to a ping");
        }
    }
}
