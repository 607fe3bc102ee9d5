//! WebSockets: from the request that asks for one to the reason it ended. Event streams use the same
//! sessions. Read the modules in this order.

pub mod handshake;
mod extension;
pub mod opening;
pub mod session;
pub mod shard;
mod socket;
pub mod v1;
mod write_plan;
mod write_buffer;
