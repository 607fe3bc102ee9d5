//! Errors that Redis answers to a batch, and the failure for each.

use redis::RedisError;

/// The reaction to an error that Redis answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It passes, and nobody needs to know.
    Again,
    /// This server does not take it. If there are others, one of them will soon.
    Elsewhere,
    /// An operator forbids it. It takes as long as that.
    Forbidden,
    /// It may take long, and the script has seen that the batch was not published before.
    Full,
    /// It will not pass.
    Never,
}

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.code() {
            Some("READONLY" | "MOVED" | "CROSSSLOT" | "CLUSTERDOWN") => Self::Elsewhere,
            // This channel or its keys, not everything: a user who has lost the right to publish
            // may get it back.
            Some("NOPERM")
                if error
                    .detail()
                    .is_some_and(|why| why.contains("to access a")) =>
            {
                Self::Never
            }
            Some("NOPERM" | "NOAUTH" | "WRONGPASS") => Self::Forbidden,
            Some("OOM" | "MISCONF" | "NOREPLICAS") => Self::Full,
            Some("ERR") if is_forbidden(error.detail().unwrap_or_default()) => Self::Forbidden,
            Some("ERR" | "WRONGTYPE") => Self::Never,
            _ => Self::Again,
        }
    }

    /// Whether the error tells of the server and not of one batch.
    pub(super) fn is_of_server(self) -> bool {
        matches!(self, Self::Elsewhere | Self::Forbidden)
    }
}

/// Whether a command was renamed or is forbidden to the user, in the words of Redis 7.0 to 8 and
/// Valkey 8: where a script calls the command, this has no code of its own.
fn is_forbidden(detail: &str) -> bool {
    const BEGINNINGS: [&str; 5] = [
        "unknown command",
        "Unknown command called from script",
        "Unknown Redis command called from script",
        "The user executing the script can't run this command",
        "ACL failure in script",
    ];
    BEGINNINGS
        .iter()
        .any(|beginning| detail.starts_with(beginning))
}
