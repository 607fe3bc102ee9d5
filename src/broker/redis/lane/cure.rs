//! Errors that Redis answers to a batch, and the cure for each.

use redis::RedisError;

/// The reaction to an error that Redis answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// It passes, and nobody needs to know.
    Again,
    /// It may take long: who can be told is told.
    Full,
    /// It will not pass.
    Never,
}

impl Cure {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.code() {
            Some("OOM" | "MISCONF" | "NOREPLICAS") => Self::Full,
            Some("ERR" | "WRONGTYPE") => Self::Never,
            // This channel or its keys, or everything: a user who has lost the right to publish may get it back.
            Some("NOPERM") if error.detail().is_some_and(|why| why.contains("to access a")) => Self::Never,
            Some("NOPERM") => Self::Full,
            _ => Self::Again,
        }
    }
}
