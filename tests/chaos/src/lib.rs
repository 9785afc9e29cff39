//! For tests and benchmarks: a whole cluster of real processes under faults, and clients that judge it by their own bytes.
//!
//! Modules: [`core`] (which fault comes when, how long delivery stood still, a player: pure), [`media`] (titles),
//! [`settings`] and [`report`] (what goes in and comes out), and the shells: `library`, `process`, `cluster`, `faults`,
//! `client`, and [`run`](run()) around them.

mod client;
mod cluster;
pub mod core;
mod faults;
mod library;
pub mod media;
mod process;
pub mod report;
mod run;
pub mod settings;

pub use core::plan::Kind;
pub use report::Report;
pub use run::run;
pub use settings::{Load, Settings};
