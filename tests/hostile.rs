//! Whatever clients do, they cost nobody more than their share. A file a kind of attack.

mod limits;
mod memory;
mod redis;
mod requests;
mod turns;
