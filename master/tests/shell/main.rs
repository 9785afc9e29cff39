//! The master's services on loopback: real TLS, real gRPC, and nodes whose `Registry` messages the tests write.

mod attach;
mod balance;
mod harness;
mod limits;
mod operate;
mod orders;
mod renew;
mod resolve;
mod tokens;
mod views;
