//! The end of a session: from the reason to the last byte.

use std::ops::ControlFlow;
use std::task::{Context, Poll};

use super::closing::{Closing, Step};
use super::{CloseReason, Ended, PENDING, Progress, READY, Session, Stage};
use crate::frame::ControlFrame;
use crate::metrics::Transport;

impl Session {
    /// Begins an end with the reason's own close code.
    pub(super) fn begin_close(&mut self, reason: CloseReason, text: &str) {
        self.begin_close_with(reason, reason.code(), text.to_owned());
    }

    pub(super) fn begin_close_with(&mut self, reason: CloseReason, code: u16, text: String) {
        // Older messages are given up. The client asks for them again when it comes back.
        self.end_replay();
        self.stage = Some(Box::new(Stage::Closing(Closing::new(reason, code, text))));
        if matches!(reason, CloseReason::Slow | CloseReason::PingTimeout) {
            // It would not take what it published in time.
            self.push_close();
        }
    }

    /// Puts the close frame behind the item that was begun. No message follows.
    pub(super) fn push_close(&mut self) {
        let transport = self.transport();
        let buffer = &mut self.output.buffer;
        // The field, because a method would borrow the buffer, too.
        if let Some(Stage::Closing(closing)) = self.stage.as_deref_mut() {
            if transport == Transport::WebSocket {
                buffer.push(ControlFrame::Close(Some((closing.code, &closing.text))));
            }
            closing.step = Step::WriteClose;
            self.output.cursor.retire();
        }
    }

    /// Takes an ending as far as it can go now.
    pub(super) fn close_on(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended> {
        let Some(closing) = self.closing_mut() else {
            return ControlFlow::Continue(());
        };
        let is_late = closing.is_late(context);
        match closing.step {
            Step::Deliver { until } => self.finish_delivery(until, is_late, context),
            Step::ReadRest if is_late => return ControlFlow::Break(closing.reason),
            Step::WriteClose | Step::Linger if is_late => {
                let reason = closing.reason;
                // The kernel would keep for minutes what the client has not taken.
                self.socket.reset_on_close();
                return ControlFlow::Break(reason);
            }
            Step::WriteClose => return self.finish_output(context),
            Step::ReadRest | Step::Linger => {}
        }
        ControlFlow::Continue(())
    }

    /// Goes on to the close frame once the client has what it published and its answers.
    fn finish_delivery(&mut self, until: Option<u64>, is_late: bool, context: &Context<'_>) {
        let cursor = &self.output.cursor;
        // Where the feed ends when it has the client's newest message.
        let until = until.or_else(|| cursor.confirmed(self.input.published));
        let answers = self.input.answers.as_ref();
        let is_answered = !answers.is_some_and(|answers| answers.are_owed());
        let is_delivered = until.is_some_and(|until| cursor.position() >= until);
        if let Some(closing) = self.closing_mut() {
            // Remembered, because the feed's end moves on with messages of others.
            closing.step = Step::Deliver { until };
            if is_late || (is_answered && is_delivered) {
                closing.extend();
                self.push_close();
                context.waker().wake_by_ref();
            }
        }
    }

    /// Ends our side of the connection once everything is written.
    fn finish_output(&mut self, context: &Context<'_>) -> ControlFlow<Ended> {
        if self.output.buffer.waiting() > 0 || self.output.unfinished_item().is_some() {
            return ControlFlow::Continue(());
        }
        // A client that has hung up already needs no waiting for.
        let has_failed = self.socket.end().is_err();
        if let Some(closing) = self.closing_mut() {
            if has_failed || closing.hung_up {
                return ControlFlow::Break(closing.reason);
            }
            closing.step = Step::Linger;
            context.waker().wake_by_ref();
        }
        ControlFlow::Continue(())
    }

    /// Ignores what a client sends after the end began, and notices when it hangs up.
    pub(super) fn discard(&mut self) -> Progress {
        let Some(closing) = self.closing() else {
            return PENDING;
        };
        let (reason, step) = (closing.reason, closing.step);
        // After the client's end there is nothing more to read.
        if !closing.hung_up {
            match self.read_in_vain() {
                Poll::Pending => return PENDING,
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(Ok(_)) => return READY,
                Poll::Ready(Err(_)) => return ControlFlow::Break(reason),
            }
        }
        // It has read the close frame, which is all that was waited for. In earlier steps it may
        // still read what is written.
        if step == Step::Linger {
            return ControlFlow::Break(reason);
        }
        if let Some(closing) = self.closing_mut() {
            closing.hung_up = true;
        }
        PENDING
    }

    /// Ends a session whose socket takes nothing more.
    pub(super) fn write_failed(&mut self) -> Progress {
        self.socket.reset_on_close();
        // It was ending anyway.
        if let Some(closing) = self.closing() {
            return ControlFlow::Break(closing.reason);
        }
        // A client that leaves with unread bytes resets its connection. Its last messages may have
        // come before that.
        self.stage = Some(Box::new(Stage::Closing(Closing::broken())));
        self.output.cursor.retire();
        READY
    }

    /// Counts the reason for which it ended.
    pub(in crate::ws) fn end(&self, reason: CloseReason) {
        let metrics = self.shared.metrics.of(self.transport());
        metrics.closed(reason.label());
        tracing::debug!(reason = reason.label(), "disconnected");
    }
}
