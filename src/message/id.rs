//! Message ids, by which clients name a message to resume after it. Opaque outside the service.

use std::fmt;
use std::str::FromStr;

/// A message of a channel's history.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId {
    /// The history that it belongs to. It changes only when a history is lost as a whole.
    pub epoch: u64,
    /// The number of the message in it, from 1.
    pub offset: u64,
}

impl MessageId {
    /// Before the first message of a channel that has no history yet.
    pub(crate) const START: Self = Self {
        epoch: 0,
        offset: 0,
    };
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::START => f.write_str("0-0"),
            Self { epoch, offset } => write!(f, "{epoch:016x}-{offset}"),
        }
    }
}

/// A text that is no id of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id")]
pub struct NoId;

impl FromStr for MessageId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let (epoch, offset) = text.split_once('-').ok_or(NoId)?;
        // Integers would parse with a sign, too.
        if !epoch.starts_with(|c: char| c.is_ascii_hexdigit())
            || !offset.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(NoId);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| NoId)?;
        Ok(Self {
            epoch,
            offset: offset.parse().map_err(|_| NoId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for id in [
            MessageId::START,
            MessageId {
                epoch: 7,
                offset: 1,
            },
            MessageId {
                epoch: u64::MAX,
                offset: u64::MAX,
            },
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "-",
            "1",
            "x-1",
            "1-",
            "1-x",
            "1-2-3",
            "+1-1",
            "1-+1",
            " 1-1",
            "11111111111111111-1",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(NoId), "{text}");
        }
    }
}
