//! For tests and benchmarks: attacks on a cluster on loopback, and honest clients that are counted meanwhile.
//!
//! A [`Flood`] keeps hostile connections or calls open, each from a source address of its own choice, until it is dropped.
//! [`honest`] makes calls as viewers do. Nothing here asserts; tests and benchmarks judge the counts.

mod flood;
pub mod honest;
mod http2;

pub use flood::{Attack, Flood, Source};
