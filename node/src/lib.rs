//! A node: keeps a library of titles, serves viewers over QUIC, carries feeds, and reports to a master.
//!
//! Entry points: [`start`] with a [`Config`], and [`cli`] for the command line. Files import only from the rows below
//! theirs:
//!
//! ```text
//! cli                         the command line
//! app                         assembles a node and takes it down
//! report                      the channel to the master: reports, catalog, orders
//! attach                      dials masters
//! quic        drain           the QUIC server and its sessions; drains
//! services                    what the rows above use, over one context
//! live                        feeds: groups, viewers, relays, recordings
//! replica  moves  leases      ordered copies; sessions that move; lifetimes of sessions
//! context                     shared state: keys, counters, active sessions
//! scheduler  send_window  presence  interface  settings  budgets
//! media                       the library of titles
//! core        sync            decisions, pure: time and randomness are arguments; locks
//! ```

pub mod app;
mod attach;
mod budgets;
pub mod cli;
mod context;
pub mod core;
mod drain;
mod interface;
mod leases;
mod live;
pub mod media;
mod moves;
mod presence;
mod quic;
mod replica;
mod report;
mod scheduler;
mod send_window;
mod services;
pub mod settings;
mod sync;
#[cfg(test)]
mod test_node;

pub use app::{Running, start};
pub use settings::Config;
