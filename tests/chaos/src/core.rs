//! Decisions and judgements, with time and chance as arguments: no process, no socket, no file, no clock.

pub mod gap;
pub mod plan;
pub mod playout;
pub mod tally;
