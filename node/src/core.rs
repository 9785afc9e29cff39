//! What a node decides, without doing it: time is an argument, an output is a value.
//! No socket, disk, clock, environment or hidden randomness is known here.

pub mod keyring;
pub mod meter;
pub mod pacer;
pub mod replay;
pub mod session;
