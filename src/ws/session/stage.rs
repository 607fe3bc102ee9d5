//! The stages of a session before and after it follows the live feed, which is most of its life and
//! has none.

use super::replay::Replay;
use super::{Closing, Session, Step};

/// What a session does instead of following the live feed.
#[derive(Debug)]
pub(super) enum Stage {
    /// It is sent what is older than the feed.
    Replay(Replay),
    /// It ends.
    Closing(Closing),
}

impl Stage {
    /// The ending, if it is one.
    pub(super) fn closing(&self) -> Option<&Closing> {
        match self {
            Self::Replay(_) => None,
            Self::Closing(closing) => Some(closing),
        }
    }

    /// The same to be changed.
    pub(super) fn closing_mut(&mut self) -> Option<&mut Closing> {
        match self {
            Self::Replay(_) => None,
            Self::Closing(closing) => Some(closing),
        }
    }

    fn reads_on(&self) -> bool {
        self.closing()
            .is_some_and(|closing| matches!(closing.step, Step::Deliver { .. }))
    }
}

impl Session {
    /// Whether messages of the live feed go to this client.
    pub(super) fn reads_on(&self) -> bool {
        self.stage.as_ref().is_none_or(|stage| stage.reads_on())
    }

    /// Whether frames of its own may still go to this client: nothing follows a close.
    pub(super) fn may_be_told(&self) -> bool {
        self.stage
            .as_ref()
            .is_none_or(|stage| matches!(**stage, Stage::Replay(_)) || stage.reads_on())
    }

    /// Whether it has ended, but for messages that its client sent before the connection broke.
    pub(super) fn only_reads(&self) -> bool {
        self.closing()
            .is_some_and(|closing| closing.step == Step::Read)
    }

    /// Its ending, once that began.
    pub(super) fn closing(&self) -> Option<&Closing> {
        self.stage.as_deref().and_then(Stage::closing)
    }
}
