//! The decisions of the dialling side, pure: time is an argument, an output is a value.

pub mod rate;
pub mod stall;
