//! Decisions about batches. No socket, no clock.

pub mod batch;
