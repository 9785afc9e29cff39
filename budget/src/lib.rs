//! Budgets: how much of a shared resource one holder may have, so that no holder denies it to the others.
//!
//! A holder is usually the source [`Prefix`] of a connection. [`Shares`] decides, [`Permits`] gives back on drop what was
//! taken, [`RefusalLog`] limits the log lines about refusals. Knows neither resources nor sockets nor clocks: amounts are
//! numbers, and time is an argument.

mod permits;
mod prefix;
mod refusal_log;
mod shares;

pub use self::{
    permits::{Permit, Permits},
    prefix::{Prefix, PrefixLengths, PrefixLengthsError},
    refusal_log::RefusalLog,
    shares::{Exceeded, Shares},
};
