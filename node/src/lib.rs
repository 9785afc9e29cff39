//! The node.

pub mod media;
