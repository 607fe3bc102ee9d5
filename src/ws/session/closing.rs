//! An ending in progress: what a session still does between the reason to end and the end.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::client::close_reason::CloseReason;

/// How long a close may wait for what was said before it, and then how long for the client to hang
/// up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// An ending in progress.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) reason: CloseReason,
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) step: Step,
    deadline: Pin<Box<Sleep>>,
    /// The client will say nothing more.
    pub(super) hung_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Until the feed has brought what this client said, and the client has it: `until` is the
    /// place in the feed.
    Deliver { until: Option<u64> },
    /// Until everything is read that the client sent before its connection broke: nothing can be
    /// written to it.
    Read,
    /// Until the close frame is written.
    Say,
    /// Until the client hangs up: ending before it has read everything would take it from its
    /// hands.
    Linger,
}

impl Closing {
    pub(super) fn new(reason: CloseReason, code: u16, text: String) -> Self {
        let deadline = Box::pin(sleep(CLOSE_PATIENCE));
        Self {
            reason,
            code,
            text,
            step: Step::Deliver { until: None },
            deadline,
            hung_up: false,
        }
    }

    /// Whether patience has ended; if not, the task is woken when it does.
    pub(super) fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        self.deadline.as_mut().poll(context).is_ready()
    }

    /// The next step has as much time as the last.
    pub(super) fn extend(&mut self) {
        self.deadline
            .as_mut()
            .reset(Instant::now() + CLOSE_PATIENCE);
    }
}
