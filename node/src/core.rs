//! Decisions of a node, without their execution: time is an argument, an output is a value. There is no socket, disk,
//! clock, environment or hidden randomness here.

pub mod admission;
pub mod background;
pub mod feed;
pub mod handover;
pub mod keyring;
pub mod lease;
pub mod meter;
pub mod pull;
pub mod quota;
pub mod recheck;
pub mod record;
pub mod replay;
pub mod schedule;
pub mod send_window;
pub mod session;
pub mod session_updates;
pub mod uptake;
pub mod volumes;
