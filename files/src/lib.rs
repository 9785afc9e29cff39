//! Files that are this user's own, and finished files: a file gets its name once it is whole and on the disk, and replaces
//! another only when asked to.
//!
//! ```text
//! Draft::write ──┐  temporary file beside the target, synced
//!                ├─► place ──► renameat2(NOREPLACE) ──► fsync(directory)
//! caller's file ─┘              └ no such flag: link + unlink; no links: look + rename
//! ```
//!
//! [`open_own`] opens a file to write that nobody else planted; [`private_folder`] makes a folder that nobody else reads.
//! [`place`] takes a file that the caller has written; [`Draft`] writes one from bytes. [`write_all`] writes many buffers
//! with few system calls. Every function blocks. The crate leaves names, formats and messages to its callers.

mod own;
mod place;
mod write;

pub use own::{NotOwn, existing, open_own, private_folder};
pub use place::{Draft, Existing, place};
pub use write::write_all;
