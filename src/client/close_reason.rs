//! Every reason a connection ends, with its close code and its label in the metrics.

use crate::frame::Violation;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed it; its code is echoed.
    Client,
    /// The socket ended without a close.
    Disconnected,
    /// The client broke the protocol.
    Protocol,
    /// The client sent text that is not UTF-8.
    NotUtf8,
    /// The client sent a message over `--max-message`.
    TooBig,
    /// The client sent more a second than it may.
    Rate,
    /// The client lagged out of the feed.
    Slow,
    /// The client did not answer a ping.
    PingTimeout,
    /// The node drains.
    Drain,
    /// The node failed.
    Internal,
}

impl CloseReason {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Client,
        Self::Disconnected,
        Self::Protocol,
        Self::NotUtf8,
        Self::TooBig,
        Self::Rate,
        Self::Slow,
        Self::PingTimeout,
        Self::Drain,
        Self::Internal,
    ];

    /// The value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Disconnected => "disconnected",
            Self::Protocol => "protocol",
            Self::NotUtf8 => "not_utf8",
            Self::TooBig => "too_big",
            Self::Rate => "rate",
            Self::Slow => "slow",
            Self::PingTimeout => "ping_timeout",
            Self::Drain => "drain",
            Self::Internal => "internal",
        }
    }

    /// The code of a close that the node begins.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Client | Self::Disconnected => 1000,
            Self::Protocol | Self::PingTimeout => 1002,
            Self::NotUtf8 => 1007,
            Self::Rate => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Drain => 1012,
            Self::Slow => 1013,
        }
    }
}

impl From<Violation> for CloseReason {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Protocol(_) => Self::Protocol,
            Violation::Rate(_) => Self::Rate,
            Violation::NotUtf8 | Violation::Deflated => Self::NotUtf8,
            Violation::TooBig { .. } | Violation::TooManyFragments { .. } => Self::TooBig,
        }
    }
}
