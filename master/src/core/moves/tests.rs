//! Moves against brute force on small clusters, and against nodes that execute them.

mod brute;
mod even;
mod rounds;
mod truth;
