//! HTTP on both ports: the accept loop they share, one connection with what surrounds hyper, the
//! ops routes, and the public routes with an answer a file.

pub mod listener;
pub mod server;
pub mod delayed_reset;
pub mod connection;
mod stream;
pub mod keep_alive;
mod exchange;
mod body;
mod unread;
mod handover;
mod successor;
mod linger;
pub mod ops;
pub mod public;
pub mod context;
mod head;
mod accept;
mod cors;
mod page;
mod bad_name;
mod websocket;
mod events;
mod publish;
mod snapshot;
