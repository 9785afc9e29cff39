//! Media containers, pure: [`probe`] tells what a file holds, and [`cut`] divides what an encoder writes into groups.
//!
//! No socket, file, clock or thread: bytes and times are arguments.

pub mod codec;
pub mod cut;
mod mp4;
mod mpegts;
pub mod probe;
#[doc(hidden)]
#[cfg(any(test, feature = "samples"))]
pub mod samples;

pub use probe::{Probe, ProbeError};

/// Most tracks described of one file or feed.
const MAX_TRACKS: usize = 64;
