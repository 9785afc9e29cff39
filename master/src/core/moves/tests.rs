//! Moves against brute force on small clusters, and against nodes that carry them out.

mod brute;
mod rounds;
mod truth;
