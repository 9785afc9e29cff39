//! The master: the virtual catalog, the roster of nodes with their bandwidth, the choice, reservations and tickets,
//! behind the gRPC API `usher.v1`.
//!
//! Rooms: [`core`] decides and is pure; `state` is its one owner; `grpc` speaks; [`app`] starts, listens and ends;
//! [`cli`] is `usher master`; `store` keeps the one thing that must outlive the process.

pub mod app;
pub mod cli;
pub mod core;
mod grpc;
mod state;
mod store;

pub use app::{ClusterAccess, Config, Running, start};
