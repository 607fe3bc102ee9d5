//! The end of a session: from the reason to the last byte.

use std::ops::ControlFlow;
use std::task::{Context, Poll};

use super::{CloseReason, Closing, Ended, Session, Stage, Step};
use crate::frame::ControlFrame;
use crate::metrics::Transport;

impl Session {
    /// Begins an end with the reason's own close code.
    pub(super) fn begin_close(&mut self, reason: CloseReason, text: &str) {
        self.begin_close_with(reason, reason.code(), text.to_owned());
    }

    pub(super) fn begin_close_with(&mut self, reason: CloseReason, code: u16, text: String) {
        self.end_replay();
        self.stage = Some(Box::new(Stage::Closing(Closing::new(reason, code, text))));
        if matches!(reason, CloseReason::Slow | CloseReason::PingTimeout) {
            self.say_close();
        }
    }

    /// Puts the close frame behind the frame that was begun; no message follows.
    pub(super) fn say_close(&mut self) {
        let transport = self.transport();
        if let Some(closing) = self.stage.as_deref_mut().and_then(Stage::closing_mut) {
            if transport == Transport::WebSocket {
                self.write_buffer
                    .push(ControlFrame::Close(Some((closing.code, &closing.text))));
            }
            closing.step = Step::Say;
            self.cursor.retire();
        }
    }

    /// Takes an ending as far as it goes now.
    pub(super) fn close_on(&mut self, context: &mut Context<'_>) -> ControlFlow<Ended> {
        let Some(stage) = self.stage.as_deref_mut() else {
            return ControlFlow::Continue(());
        };
        let Some(closing) = stage.closing_mut() else {
            return ControlFlow::Continue(());
        };
        let item_ended = self.cursor.unfinished_item(self.recipient.format).is_none();
        let late = closing.is_late(context);
        match &mut closing.step {
            Step::Deliver { until } => {
                *until = until.or_else(|| self.cursor.confirmed(self.said));
                let answered = self
                    .answers
                    .as_ref()
                    .is_none_or(|answers| answers.owed == 0);
                if late || (answered && until.is_some_and(|until| self.cursor.position() >= until))
                {
                    closing.extend();
                    self.say_close();
                    context.waker().wake_by_ref();
                }
            }
            Step::Read if late => return ControlFlow::Break(closing.reason),
            _ if late => {
                // It does not read: the kernel would keep for minutes what it has not taken.
                self.socket.reset_on_close();
                return ControlFlow::Break(closing.reason);
            }
            Step::Say if self.write_buffer.waiting() == 0 && item_ended => {
                if self.socket.end().is_err() || closing.hung_up {
                    return ControlFlow::Break(closing.reason);
                }
                closing.step = Step::Linger;
                context.waker().wake_by_ref();
            }
            Step::Read | Step::Say | Step::Linger => {}
        }
        ControlFlow::Continue(())
    }

    /// Its socket takes nothing more.
    pub(super) fn write_failed(&mut self) -> ControlFlow<Ended, Poll<()>> {
        self.socket.reset_on_close();
        if let Some(closing) = self.closing() {
            return ControlFlow::Break(closing.reason);
        }
        // A client that did not read resets its connection when it leaves. Its last messages may
        // have come before that.
        let mut closing = Closing::new(
            CloseReason::Disconnected,
            CloseReason::Disconnected.code(),
            String::new(),
        );
        closing.step = Step::Read;
        self.stage = Some(Box::new(Stage::Closing(closing)));
        self.cursor.retire();
        ControlFlow::Continue(Poll::Ready(()))
    }

    /// Counts the reason for which it ended.
    pub(in crate::ws) fn end(&self, reason: CloseReason) {
        self.shared
            .metrics
            .of(self.transport())
            .closed(reason.label());
        tracing::debug!(reason = reason.label(), "disconnected");
    }
}
