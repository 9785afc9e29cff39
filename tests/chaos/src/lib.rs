//! For tests and benchmarks: a cluster of real processes under faults, and clients whose output is compared with its source.
//!
//! Modules: [`core`] (plan of faults, gaps of delivery, simulated player: pure), [`test_title`] (media files), [`settings`]
//! and [`report`], and the shells: `library`, `process`, `cluster`, `faults`, `client`, and [`run`](run()) around them.

mod client;
mod cluster;
pub mod core;
mod faults;
mod library;
mod process;
pub mod report;
mod run;
pub mod settings;
mod sync;
pub mod test_title;

pub use core::plan::Kind;
pub use report::Report;
pub use run::run;
pub use settings::{Load, Settings};
