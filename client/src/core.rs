//! The client's decisions: pure, without a runtime, sockets, files or a clock; time and randomness are arguments.

pub mod assembler;
pub mod failover;
pub mod gate;
pub mod outbox;
pub mod playout;
pub mod range;
pub mod sources;
pub mod state;
pub mod table;
pub mod url;
