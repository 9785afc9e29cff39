//! The pure part: claims, keys, rights and their verification. Time is an argument.

pub mod claims;
pub mod error;
pub mod keys;
pub mod refresh;
pub mod rights;
#[cfg(test)]
mod tests;
pub mod verifier;
