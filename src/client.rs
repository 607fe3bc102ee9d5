//! The parts that every kind of client connection shares, whatever it speaks: how many there may
//! be and how fast they may publish, which requests are rejected and why, how a silent client is
//! noticed, and the reasons a connection ends. [`crate::ws`] and [`crate::http`] use it; it uses
//! neither.

pub mod close_reason;
pub mod connection_limits;
pub mod keepalive;
pub mod rate;
