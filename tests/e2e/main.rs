//! End-to-end tests: each starts the real binary, and real players and tools, and checks one promise of the product.

mod balance;
mod certs;
mod chaos;
mod cluster;
mod control;
mod copies;
mod damage;
mod demo;
mod docs;
mod explain;
mod fetch;
mod grpc;
mod hints;
mod hostile;
mod library;
mod live;
mod metrics;
mod operate;
mod parts;
mod play;
mod tickets;
mod trouble;
mod upgrade;
