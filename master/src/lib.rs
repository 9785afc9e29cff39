//! The master: virtual catalog, roster of nodes with their bandwidth, choice of nodes, reservations and tickets, behind
//! the gRPC API `usher.v1`.
//!
//! ```text
//! cli ── app ─┬─ grpc ─┬─ update_queue ─┐
//!             ├─ http  │                state ── core
//!             │        └────────────────┘
//!             ├─ listen ── connection ── calls
//!             └─ store
//! ```
//!
//! `viewers` checks tokens. [`core`] decides and is pure. `state` is its only owner, behind one short lock. `grpc` serves the API,
//! `update_queue` batches the updates of nodes. `listen`, `connection` and `calls` limit what clients may use, by the
//! `peer`; `metrics` counts and `http` exposes the counts. [`app`] starts and stops a master, [`cli`] is `usher master`, and
//! `store` keeps the only persistent state:
//! the secret that signs tickets.

pub mod app;
mod calls;
pub mod cli;
mod connection;
pub mod core;
mod dial_back;
mod grpc;
mod http;
mod listen;
mod metrics;
mod peer;
mod places;
mod refusals;
pub mod settings;
mod state;
mod store;
mod update_queue;
mod viewers;

pub use app::{MasterHandle, start};
pub use settings::{ClusterAccess, Config, MetricsAt, ViewerAccess};
