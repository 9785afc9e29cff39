//! The master's shell on loopback: real TLS, real gRPC, nodes that speak `Registry` by hand.

mod attach;
mod balance;
mod faces;
mod harness;
mod operate;
mod orders;
mod renew;
mod resolve;
