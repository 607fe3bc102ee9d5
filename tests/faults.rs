//! Nothing is lost, and never silently, whatever happens to nodes, to Redis and to the network
//! between them: for each fault, three nodes, steady speakers that want acknowledgements, listeners
//! that resume and plain ones, and an audit of what everybody heard against what was acknowledged.
//! `tests/chaos SECONDS SEED` mixes faults for as long as one likes.

mod audit;
mod cluster;
mod forgotten;
mod island;
mod journal;
mod listener;
mod network;
mod nodes;
mod play;
mod random;
mod redis;
mod sentinel;
mod speaker;
mod stage;
mod wire;
