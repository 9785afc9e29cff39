//! The decisions, with time as an argument: no socket, no clock, no randomness but a seed.

pub mod lane;
pub mod opening;
