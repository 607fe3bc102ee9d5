//! The parts that every kind of client connection shares, whatever it speaks: how many there may
//! be and how fast they may publish, the address and the origin of a request, its options, which
//! requests are rejected and why, how a silent client is noticed, and the reasons a connection
//! ends. [`crate::ws`] and [`crate::http`] use it; it uses neither.

pub mod caller;
mod forwarded;
pub mod connection_limits;
pub mod rate;
pub mod origin;
pub mod query;
pub mod percent;
pub mod header_list;
pub mod rejection;
pub mod keepalive;
pub mod close_reason;
