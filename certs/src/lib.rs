//! Trust in the cluster: the authority, the identities that it signs, their files, media certificates and their pins, and
//! the command `usher certs`.
//!
//! ```text
//! cli ──► files ──► authority ──► identity      master, node, operator: mutual TLS
//!                        └───────────┴──► certificate ──► suite
//! tls ──► media, pin ────────────────────────┘  viewer ↔ node: pinned certificates
//! ```
//!
//! - Between master, node and operator: mutual TLS under the cluster's own [`authority`], with the peer's role and name in the
//!   certificate ([`identity`]).
//! - Between viewer and node: a self-signed certificate ([`media`]) whose SHA-256 the master puts into the seat ([`pin`]), so
//!   that a viewer needs no authority.
//!
//! Start at [`files`] for certificates on disk and at [`tls`] for configurations. Time is an argument except in [`cli`] and
//! [`files`]; keys come from the randomness of aws-lc-rs.

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
