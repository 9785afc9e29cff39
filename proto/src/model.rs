//! Validated forms of what arrives over gRPC and in `Setup`: a message becomes one of these or a list of violations.
//! Nothing past this point sees an unchecked field. Owns the bounds of every field.

mod catalog;
mod equipment;
mod feed;
mod invalid;
mod moves;
mod node;
mod publish;
mod request;
mod sessions;
mod setup;

pub use catalog::{CatalogCopy, CatalogPage, Origin};
pub use equipment::{Equipment, Lack, MAX_LABELS, PROTOCOL, Requirements};
pub use feed::{FeedSetupInfo, FeedState, Feeds, LiveInfo, MAX_FEEDS, Medium, Offer};
pub use invalid::{Invalid, Violation};
pub use moves::{EndSession, Move};
pub use node::{BudgetRefusals, Hello, Presence, Report};
pub use publish::{EndPublisher, Publish, Published, Relay, RelayWanted, TAKEN_OVER};
pub use request::{Failed, Mode, Range, RangeError, Renew, Resolve, What};
pub use sessions::{Begun, RateChange, Sessions, Turned};
pub use setup::{SeatAddress, SetupInfo};

/// Most nodes that a request may exclude.
pub const MAX_EXCLUDE: usize = 64;

/// Maximum number of failed seats that a request may report.
pub const MAX_FAILED: usize = 16;

/// Most requests of one `ResolveMany`.
pub const MAX_REQUESTS: usize = 256;

/// Most copies and removals of one catalog page together.
pub const MAX_PAGE_ENTRIES: usize = 5000;

/// Most addresses or certificates of one node.
pub const MAX_ADDRESSES: usize = 16;

/// Most sessions of one message; a node sends the rest with the next.
pub const MAX_SETTLED: usize = 10_000;
