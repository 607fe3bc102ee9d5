//! The kinds of errors that Redis answers to a batch. The kind decides whether the batch is sent
//! again, and when its publisher gets the error.

use redis::RedisError;

/// A kind of error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It passes.
    Transient,
    /// This server does not take it. If there are others, one of them will soon.
    WrongServer,
    /// An operator forbids it. It takes as long as that.
    Forbidden,
    /// Redis takes no writes, perhaps for long. The script has seen that the batch was not
    /// published before.
    Full,
    /// It will not pass.
    Permanent,
}

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        let detail = error.detail().unwrap_or_default();
        match error.code() {
            Some("READONLY" | "MOVED" | "CROSSSLOT" | "CLUSTERDOWN") => Self::WrongServer,
            // Only this channel or its keys. A user who has lost the right to publish at all may
            // get it back.
            Some("NOPERM") if detail.contains("to access a") => Self::Permanent,
            Some("NOPERM" | "NOAUTH" | "WRONGPASS") => Self::Forbidden,
            Some("OOM" | "MISCONF" | "NOREPLICAS") => Self::Full,
            Some("ERR") if is_forbidden(detail) => Self::Forbidden,
            Some("ERR" | "WRONGTYPE") => Self::Permanent,
            _ => Self::Transient,
        }
    }

    /// Whether the error is about the server and not about one batch.
    pub(super) fn is_of_server(self) -> bool {
        matches!(self, Self::WrongServer | Self::Forbidden)
    }
}

/// Whether a command was renamed or is forbidden to the user, as Redis 7.0 to 8 and Valkey 8 word
/// it: where a script calls the command, the error has no code of its own.
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
