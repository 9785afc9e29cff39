//! The client of a cluster: finds a title through the master, fetches or plays it from nodes, and verifies every byte.
//!
//! Rooms: [`core`] (the decisions, pure), [`driver`] (one title over any number of seats), `master` (gRPC), `quic`
//! (connections to nodes), [`sink`] (files and pipes), [`cli`] (the commands).

pub mod cli;
mod client;
mod clock;
pub mod core;
pub mod driver;
mod master;
mod quic;
pub mod sink;

pub use client::{Client, Options};
pub use master::Authority;
pub use quic::Congestion;

#[cfg(test)]
mod tests;
