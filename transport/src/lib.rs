//! What lies between quinn and the kernel, for node and client alike: the threads on which connections live, the UDP
//! sockets, and the batches in which datagrams leave. The protocol itself (loss recovery, congestion control, retry,
//! reset) is quinn's; nothing here looks into a datagram.

pub mod congestion;
pub mod core;
mod driver;
mod runtime;
mod socket;
mod threads;

pub use crate::{
    congestion::Congestion,
    runtime::{FIRST_GUESS, endpoint},
    socket::{Offload, bind, widen},
    threads::{Place, Threads},
};
