//! The feeds of a node: published here or relayed from another node, watched, relayed on, and recorded. Each task of a
//! feed has its file; how frames travel is the sessions'.

mod feed;
mod feeds;
mod groups;
pub(crate) mod ingest;
mod publisher;
mod record;
mod recorder;
pub(crate) mod relay;
mod subscriber;
#[cfg(test)]
mod tests;
mod upstream;
pub(crate) mod watch;

pub(crate) use self::{
    feeds::{FeedSettings, Feeds, GRACE},
    publisher::PublisherGuard,
    recorder::Recorder,
    subscriber::SubscriberGuard,
};
