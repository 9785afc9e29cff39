//! The protocol between master, node and client: the gRPC API `usher.v1`, the QUIC framing `usher/1`, tickets, units,
//! identifiers and the table of errors.
//!
//! ```text
//! bytes of gRPC ──► pb ──► model         validated requests, reports, catalogs
//! bytes of QUIC ──► wire::Decoder ──► Frame ──► verify::Verifier (titles) or feed::Chain (feeds)
//! ticket::Key::sign ──► token ──► ticket::verify
//! any failure   ──► Fault ──► gRPC status, QUIC code, exit code
//! ```
//!
//! Start at [`model`] for messages, [`wire`] for frames, [`ticket`] for rights and [`code`] for errors. Pure: no sockets, no
//! clock, no disk.

pub mod backoff;
pub mod buffers;
pub mod code;
pub mod feed;
pub mod id;
pub mod model;
pub mod pb;
pub mod text;
pub mod ticket;
pub mod title;
pub mod tree;
pub mod units;
pub mod verify;
pub mod wire;

pub use code::{Code, Fault};
pub use id::{BootId, ContentId, NodeName, PublisherId, SessionId, TokenId, ViewerId};
pub use title::Title;
pub use units::Bitrate;

/// ALPN of the media protocol.
pub const ALPN: &[u8] = b"usher/1";

/// Port of the master's gRPC listener when a URL or an option names none.
pub const MASTER_PORT: u16 = 7440;
