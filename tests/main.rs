//! Tests at the front door: real nodes, real sockets, a real Redis. One binary; a file a
//! capability.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod handshake;
mod parameters;
mod streams;
mod connections;
mod protocol;
mod compression;
mod resume;
mod gaps;
mod foreign;
mod poison;
mod acknowledged;
mod frames;
mod broadcast;
mod cluster;
mod history;
mod publishers;
mod outage;
mod moved;
mod redis_setups;
mod backpressure;
mod slow_links;
mod drain;
mod ops;
mod monitoring;
mod browser;
mod node_clients;
mod clients;
mod module;
mod cli;
mod traces;
mod upgrade;
mod invariants;
mod structure;
mod conformance;
mod guard;
mod compose;
mod manifests;
mod release;
mod faults;
mod hostile;
