//! The master's shell on loopback: real TLS, real gRPC, nodes that speak `Registry` by hand.

mod attach;
mod faces;
mod harness;
mod resolve;
