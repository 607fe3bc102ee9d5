//! Which publisher a message comes from, and which of its messages it is.

use std::fmt;

/// A channel's publisher on one node. A node draws an id at random for each channel object, so that
/// a channel that went and came again is another publisher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PublisherId(pub u64);

impl PublisherId {
    /// An id that no other publisher has.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for PublisherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of a message among those of its publisher. The first is 1, so 0 is before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sequence(pub u64);

impl Sequence {
    /// The message that comes after this one.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The last of `count` messages of which this is the first.
    #[must_use]
    pub(crate) fn last_of(self, count: usize) -> Self {
        Self(self.0 + count as u64 - 1)
    }
}
