//! Relays on loopback that impair what passes, as real networks do: for tests and benchmarks, between real binaries.
//!
//! Modules: [`core`] (which datagram is lost and when it leaves, pure), [`udp`] and [`tcp`] (sockets), [`memory`] (the same
//! for quinn without sockets, on tokio's clock).

pub mod core;
pub mod memory;
pub mod tcp;
pub mod udp;

pub use core::{
    lane::{Counts, Settings},
    opening::Opening,
};
pub use tcp::TcpRelay;
pub use udp::{Direction, Entrance, UdpRelay};
