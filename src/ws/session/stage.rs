//! The stages of a session before and after it follows the live feed.

use super::Session;
use super::closing::{Closing, Step};
use super::replay::Replay;

/// What a session does instead of following the live feed.
#[derive(Debug)]
pub(super) enum Stage {
    /// It writes messages that are older than the feed.
    Replay(Replay),
    /// It ends.
    Closing(Closing),
}

impl Stage {
    fn closing(&self) -> Option<&Closing> {
        match self {
            Self::Replay(_) => None,
            Self::Closing(closing) => Some(closing),
        }
    }

    fn closing_mut(&mut self) -> Option<&mut Closing> {
        match self {
            Self::Replay(_) => None,
            Self::Closing(closing) => Some(closing),
        }
    }

    fn replay_mut(&mut self) -> Option<&mut Replay> {
        match self {
            Self::Replay(replay) => Some(replay),
            Self::Closing(_) => None,
        }
    }

    fn follows_feed(&self) -> bool {
        self.closing()
            .is_some_and(|closing| matches!(closing.step, Step::Deliver { .. }))
    }
}

impl Session {
    /// Whether it writes messages of the live feed.
    #[inline]
    pub(super) fn follows_feed(&self) -> bool {
        self.stage.as_ref().is_none_or(|stage| stage.follows_feed())
    }

    /// Whether frames for this client alone may be written: none follows a close.
    pub(super) fn may_push_frames(&self) -> bool {
        self.stage
            .as_ref()
            .is_none_or(|stage| matches!(**stage, Stage::Replay(_)) || stage.follows_feed())
    }

    /// Whether its connection broke, and only what the client sent before that is still read.
    pub(super) fn only_reads(&self) -> bool {
        self.closing()
            .is_some_and(|closing| closing.step == Step::ReadRest)
    }

    /// Its ending, once that began.
    #[inline]
    pub(super) fn closing(&self) -> Option<&Closing> {
        self.stage.as_deref().and_then(Stage::closing)
    }

    pub(super) fn closing_mut(&mut self) -> Option<&mut Closing> {
        self.stage.as_deref_mut().and_then(Stage::closing_mut)
    }

    pub(super) fn replay_mut(&mut self) -> Option<&mut Replay> {
        self.stage.as_deref_mut().and_then(Stage::replay_mut)
    }
}
