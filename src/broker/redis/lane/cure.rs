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
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOPERM") => Self::Full,
            Some("ERR" | "WRONGTYPE") => Self::Never,
            _ => Self::Again,
        }
    }
}
