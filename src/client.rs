//! The parts that every kind of client connection shares, whatever it speaks: how many there may
//! be and how fast they may publish, the address and the origin of a request, its options, which
//! requests are rejected and why, how a silent client is noticed, and the reasons a connection
//! ends. [`crate::ws`] and [`crate::http`] use it; it uses neither.

pub(crate) mod caller;
mod forwarded;
pub(crate) mod connection_limits;
pub(crate) mod rate;
pub(crate) mod origin;
pub(crate) mod query;
pub(crate) mod percent;
pub(crate) mod header_list;
pub mod rejection;
pub(crate) mod keepalive;
pub(crate) mod close_reason;
