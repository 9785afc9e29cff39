//! The node: keeps a library of titles, answers viewers over QUIC, and tells its master what it has and sends.
//!
//! Rooms: [`media`] (the library), [`core`] (what to send, when, and who may have it; pure), `house` (what the shells
//! share), `quic` (sessions), `moves` (those that go elsewhere), `leases` (until when they may run), `live` (feeds), `replica` (copies that the
//! master orders), `attach` and `report` (the standing channel to the master), [`app`] and [`cli`].

pub mod app;
mod attach;
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
