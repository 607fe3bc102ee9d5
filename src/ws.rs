//! WebSockets: from the request that asks for one to the reason it ended. Event streams use the same
//! sessions. Read the modules in this order.

pub(crate) mod handshake;
mod extension;
pub(crate) mod opening;
pub(crate) mod session;
pub(crate) mod shard;
mod socket;
pub(crate) mod v1;
mod write_plan;
mod write_buffer;
