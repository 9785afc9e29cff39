//! Drivers of sessions: fetch a title, watch a feed, publish a feed.
//!
//! A driver connects the decisions of the core to the master, the nodes and its caller. [`crate::failover`] finds a node
//! for each of them, and another after a failure.

mod connector;
mod fetch;
mod order;
mod publish;
mod renewal;
mod watch;

pub(crate) use self::{
    connector::Connector,
    fetch::{Context, fetch},
    order::Order,
    publish::publish,
    watch::{WatchOrder, watch},
};
pub use self::{
    fetch::{FetchEvent, Outcome, Sink, TransferInfo},
    publish::{MediaInput, Publication, PublishEvent, PublishStats},
    watch::{FeedEvent, FeedSink, FeedStats, StartAt},
};
