//! How many messages are missing at a gap.

/// Messages that a reader cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// So many.
    Exactly(u64),
    /// Nobody can count them.
    Unknown,
}

impl Missed {
    /// The number, if it is known: clients get `null` otherwise.
    pub(crate) fn count(self) -> Option<u64> {
        match self {
            Self::Exactly(messages) => Some(messages),
            Self::Unknown => None,
        }
    }
}

impl std::ops::Add for Missed {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        match (self, more) {
            (Self::Exactly(before), Self::Exactly(more)) => Self::Exactly(before + more),
            _ => Self::Unknown,
        }
    }
}
