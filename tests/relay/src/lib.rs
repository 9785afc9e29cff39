//! Relays on loopback with loss, delay and a limited rate, for tests and benchmarks between real binaries.
//!
//! Modules: [`core`] (loss and delay of each datagram, pure), [`udp`] and [`tcp`] (sockets), [`memory`] (the same for quinn
//! without sockets, on tokio's clock).

pub mod core;
pub mod memory;
mod sync;
pub mod tcp;
pub mod udp;

pub use core::{
    lane::{Counts, Settings},
    opening::Opening,
};
pub use tcp::TcpRelay;
pub use udp::{Direction, Entrance, UdpRelay};
