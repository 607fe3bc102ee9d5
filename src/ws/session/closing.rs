//! The state of an ending: what a session still does between the reason to end and the end.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::client::close_reason::CloseReason;

/// The time for delivering what was published before the end, and again for the close frame and
/// the client's hanging up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// An ending in progress.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) reason: CloseReason,
    /// Code and text of the close frame.
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) step: Step,
    deadline: Pin<Box<Sleep>>,
    /// The client has ended its side of the connection.
    pub(super) hung_up: bool,
}

/// The steps of an ending, in order. One whose connection broke has only [`Step::ReadRest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write what this client published before the end. It lies before sequence number `until` of
    /// the feed, once the feed has it.
    Deliver { until: Option<u64> },
    /// Write the close frame.
    WriteClose,
    /// Wait until the client hangs up. If we closed earlier, the kernel could take from it what it
    /// has not read.
    Linger,
    /// Publish what the client sent before its connection broke. Nothing can be written.
    ReadRest,
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

    /// After the connection broke.
    pub(super) fn broken() -> Self {
        let reason = CloseReason::Disconnected;
        Self {
            step: Step::ReadRest,
            ..Self::new(reason, reason.code(), String::new())
        }
    }

    /// Whether its time is over. If not, the task is woken when it is.
    pub(super) fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        self.deadline.as_mut().poll(context).is_ready()
    }

    /// Gives the next steps as much time as the first has had.
    pub(super) fn extend(&mut self) {
        self.deadline
            .as_mut()
            .reset(Instant::now() + CLOSE_PATIENCE);
    }
}
