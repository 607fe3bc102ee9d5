//! HTTP on both ports: the accept loop they share, the public routes and what is behind them, and
//! the ops routes.

pub mod bind;
pub mod listen;
pub mod keep_alive;
pub mod stream;
mod exchange;
mod body;
mod farewell;
pub mod handover;
pub mod resets;
pub mod connection;
pub mod head;
pub mod ops;
pub mod public;
mod page;
mod events;
mod publish;
mod snapshot;
pub mod query;
mod percent;
mod accept;
mod forwarded;
