//! End-to-end tests: each starts the real binary, and real players and tools, and checks one promise of the product.

mod bad_network;
mod balance;
mod certs;
mod chaos;
mod cluster;
mod copies;
mod damage;
mod demo;
mod docs;
mod explain;
mod failures;
mod fetch;
mod grpc;
mod hints;
mod hostile_claims;
mod hostile_master;
mod hostile_tickets;
mod library;
mod live;
mod master_loss;
mod metrics;
mod operate;
mod parts;
mod play;
mod tickets;
mod upgrade;
