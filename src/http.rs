//! HTTP on both ports: the accept loop they share, the public routes and the ops routes.

pub mod listen;
pub mod ops;
pub mod public;
