//! Moves against brute force on small clusters, and against nodes that carry them out.

mod brute;
mod even;
mod rounds;
mod truth;
