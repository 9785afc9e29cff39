//! For tests and benchmarks: a cluster of real processes on loopback, in a temporary folder that is removed with it.
//!
//! [`Layout`] knows the folder, the certificates and every command line; [`Cluster`] adds a master and nodes that run;
//! [`Process`] is one running program, whose log is read line by line. Assertions are left to the tests.
//!
//! Each fallible operation returns an error for benchmarks, which go on without a peer that fails. Tests use the
//! shorter ones that panic with what the program wrote.

mod cluster;
mod layout;
mod process;
mod wait;

pub use cluster::Cluster;
pub use layout::{Layout, address_in, usher};
pub use process::{Output, Process, run};
pub use rustix::process::Signal;
pub use wait::{PATIENCE, eventually, poll};
