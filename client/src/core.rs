//! The client's decisions, pure: no runtime, no sockets, no files, no clock; time and randomness are arguments.

pub mod assembler;
pub mod outbox;
pub mod playout;
pub mod range;
pub mod resume;
pub mod sources;
pub mod state;
pub mod table;
pub mod url;
