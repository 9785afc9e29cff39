//! The cluster's trust: its authority, the identities it signs, their files on disk, the short-lived certificates
//! that media is served under and the pinning of them, and `usher certs`.
//!
//! It refuses to know gRPC, QUIC sessions and titles. Time is an argument everywhere but in [`cli`]
//! and [`files`], which are the shells of this crate; keys are made with the randomness of aws-lc-rs.
//!
//! Two kinds of trust live here. Between master, node and operator it is mutual TLS under the cluster's own
//! [`authority`], with the peer's role and name in the certificate ([`identity`]). Between viewer and node it is a
//! self-signed certificate ([`media`]) whose SHA-256 the viewer has been told by the master ([`pin`]), so that a viewer
//! needs no authority at all.

pub mod authority;
mod certificate;
pub mod cli;
pub mod files;
pub mod identity;
pub mod media;
pub mod pin;
mod suite;
pub mod tls;

pub use authority::{Authority, Issued, San};
pub use identity::{Identity, Role};
