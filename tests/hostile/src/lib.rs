//! For tests and benchmarks: attacks on a cluster on loopback, and honest clients that are counted meanwhile. All of
//! 127.0.0.0/8 is local, so each has a source address of its own choice.
//!
//! A [`Flood`] keeps hostile connections or calls to the master open until it is dropped, [`HalfOpen`] handshakes with a node.
//! A [`Client`] opens sessions and reads them as fast or as slowly as it likes. [`honest`] makes calls as viewers do. Nothing
//! here asserts; tests and benchmarks judge the counts.

pub mod client;
mod flood;
pub mod half_open;
pub mod honest;
mod http2;

pub use self::{
    client::{Client, Reading, Session},
    flood::{Attack, Flood, Source},
    half_open::HalfOpen,
};
