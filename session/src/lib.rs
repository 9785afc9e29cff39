//! The dialling side of usher/1: used by the client, and by a node that copies from another node or relays its feeds.
//!
//! - [`Pool`] dials seats by their pins, shares connections, and opens sessions.
//! - [`FrameReader`] reads the frames of a session's stream; [`batch`] gathers them on the media thread.
//! - [`FeedSession`] joins a feed's control frames, its groups and the health of its connection;
//!   [`GroupRouter`] brings each group's stream to its session.
//! - [`replies`] turns the first frames of a session into set-up information or a fault.
//! - [`core`] is pure: detection of stalled nodes, and the rate limit.
//!
//! The caller decides on requests, on the next seat after a loss, and on the use of the bytes.

pub mod batch;
pub mod core;
mod dial;
mod early;
pub mod fault;
mod feed;
mod frames;
mod pool;
pub mod replies;
mod router;
mod sync;

pub use usher_transport::clock;

pub use self::{
    dial::ConnectionSettings,
    feed::{FeedInput, FeedSession, FeedSignal, SessionEvent, StreamEvent},
    frames::{FrameReader, RateLimit},
    pool::{Pool, ReaderTask, renew},
    router::{GroupEnd, GroupRouter, GroupStream, Registration},
};
