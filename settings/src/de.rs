//! Values of a TOML file as the command line writes them: texts with a unit, or in a form of their own. For
//! `#[serde(deserialize_with = "…")]`; errors get file and line from the TOML parser.

use std::{fmt::Display, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::size as parse_size;

/// A value that is written as a text.
///
/// # Errors
/// What `T` says about the text.
pub fn text<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

/// A value that is written as a text, and may be left out.
///
/// # Errors
/// As [`text`].
pub fn text_or_none<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    text(from).map(Some)
}

/// A list of values that are written as texts.
///
/// # Errors
/// As [`text`].
pub fn texts<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

/// A length of time, such as `90s` or `1h`.
///
/// # Errors
/// The error of a text that does not parse.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// Bytes, as [`crate::size`] reads them.
///
/// # Errors
/// As [`crate::size`].
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// Bytes, as [`crate::size`] reads them, that may be left out.
///
/// # Errors
/// As [`crate::size`].
pub fn size_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}
