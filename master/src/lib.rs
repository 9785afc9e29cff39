//! The master: the virtual catalog, the roster of nodes with their bandwidth, the choice, reservations and tickets,
//! behind the gRPC API `usher.v1`.
//!
//! Rooms: [`core`] decides and is pure; `state` is its one owner; `grpc` speaks; `load` is the queue of what nodes tell;
//! [`app`] starts and ends, `listen` bounds the connections; `metrics` counts, and `http` shows it; [`cli`] is
//! `usher master`; `store` keeps the one thing that must outlive the process.

pub mod app;
pub mod cli;
pub mod core;
mod grpc;
mod http;
mod listen;
mod metrics;
mod state;
mod store;
mod update_queue;

pub use app::{Balancing, ClusterAccess, Config, MasterHandle, MetricsAt, start};
