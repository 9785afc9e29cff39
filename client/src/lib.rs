//! The client of an Usher cluster: fetches and plays titles, watches and publishes feeds, and verifies every byte.
//!
//! ```text
//!                 Client                 what a program embeds
//!                   │
//!       ┌───────────┼───────────┐
//!     fetch       watch      publish     one driver for each kind of transfer
//!       └───────────┼───────────┘
//!                failover                next seat, hedging, moves, timeout
//!            ┌──────┴──────┐
//!          master       sessions         gRPC to the master, QUIC to the nodes
//! ```
//!
//! A program begins with a [`Client`] of one master:
//!
//! | to                               | call                 | with                                       |
//! |----------------------------------|----------------------|--------------------------------------------|
//! | fetch a title                    | [`Client::fetch_to`] | a [`Sink`], such as [`sink::FileSink`]     |
//! | play a feed                      | [`Client::play`]     | a [`FeedSink`], such as [`sink::LiveSink`] |
//! | publish a feed                   | [`Client::publish`]  | a [`Publication`] and a [`MediaInput`]     |
//! | list titles and their copies     | [`Client::list`], [`Client::locate`] |                            |
//! | ask which nodes serve a title    | [`Client::resolve`]  |                                            |
//!
//! Nodes that fail, drain or fall silent are replaced while a transfer runs; its observer receives an event, and its sink
//! receives every byte once and in order. All errors are [`Fault`]s, whose [`Code`] decides what a caller can do.
//!
//! The `examples` folder holds a program for each of fetch, watch and publish.

#[doc(hidden)]
pub mod cli;
mod client;
#[doc(hidden)]
pub mod core;
mod driver;
mod failover;
mod master;
pub mod sink;
mod token;

use usher_session::clock;

pub use client::{Client, Options, Resolution};
pub use driver::{
    FeedEvent, FeedSink, FeedStats, FetchEvent, MediaInput, Outcome, Publication, PublishEvent, PublishStats, Sink,
    StartAt, TransferInfo,
};
pub use master::Authority;
pub use token::Token;
pub use usher_certs::files::PemSet;
pub use usher_media::cut::Format;
pub use usher_proto::{Bitrate, Code, ContentId, Fault, NodeName, Title, model::What, ticket::Purpose};
pub use usher_transport::Congestion;

pub use crate::core::{
    assembler::Chunk,
    url::{Address, Url},
};

#[cfg(test)]
mod tests;
