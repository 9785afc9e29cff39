//! The client of a cluster: finds a title through the master, fetches or plays it from nodes, and verifies every byte.

pub mod core;
