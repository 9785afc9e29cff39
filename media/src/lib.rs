//! Media containers, pure: [`probe`] describes a file, and [`cut`] splits an encoder's output into the groups of a feed.
//!
//! ```text
//! file (Read + Seek) ──► probe::probe ──► Probe: media type, duration, tracks
//! encoder's bytes ─────► cut::Cutter ───► Cut: format, groups, pieces
//!          both use: mp4 (boxes), mpegts (packets, program tables), codec (names)
//! ```
//!
//! Bytes and times are arguments: no socket, file, clock or thread. Trusts nothing in the bytes: work and memory are bounded.

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
