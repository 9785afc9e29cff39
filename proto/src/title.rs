//! A title: a location-free name such as `films/dune.mp4`. Owns the rule of what a name may be.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use thiserror::Error;

/// The longest title, in bytes.
pub const MAX_BYTES: usize = 1024;

/// The longest part between two slashes, in bytes: what file systems allow.
pub const MAX_PART_BYTES: usize = 255;

/// Why a name is no title.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TitleError {
    /// Nothing there.
    #[error("a title must not be empty")]
    Empty,
    /// Too long.
    #[error("a title has at most {MAX_BYTES} bytes, and {MAX_PART_BYTES} between slashes; this one has {0}")]
    TooLong(usize),
    /// Not text.
    #[error("a title must be UTF-8")]
    NotUtf8,
    /// A control character, NUL among them.
    #[error("a title must not contain control characters")]
    Control,
    /// `.`, `..`, an empty part, or a slash at an end.
    #[error("a title is a relative path without `.`, `..` and empty parts, and without `\\`")]
    Path,
}

/// A valid title; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Title(Arc<str>);

impl Title {
    /// Checks a name: UTF-8 text of 1 to 1024 bytes, a relative path of ordinary parts.
    pub fn parse(name: &str) -> Result<Self, TitleError> {
        if name.is_empty() {
            return Err(TitleError::Empty);
        }
        if name.len() > MAX_BYTES || name.split('/').any(|part| part.len() > MAX_PART_BYTES) {
            return Err(TitleError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(TitleError::Control);
        }
        if name.contains('\\') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(TitleError::Path);
        }
        Ok(Self(name.into()))
    }

    /// Checks a name read from a file system, as [`Self::parse`].
    pub fn from_bytes(name: &[u8]) -> Result<Self, TitleError> {
        Self::parse(std::str::from_utf8(name).map_err(|_| TitleError::NotUtf8)?)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether it is the name of a feed, `live/NAME`, and never of a file.
    pub fn is_live(&self) -> bool {
        self.0.starts_with("live/")
    }

    /// The parts between slashes.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for Title {
    type Err = TitleError;

    fn from_str(name: &str) -> Result<Self, TitleError> {
        Self::parse(name)
    }
}

impl Borrow<str> for Title {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "films/dune.mp4", "ä/ö ü.webm", "...", "a..b", "x/".repeat(500).trim_end_matches('/')] {
            assert_eq!(Title::parse(good).map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for (wrong, why) in [
            ("", TitleError::Empty),
            ("/etc/passwd", TitleError::Path),
            ("a/", TitleError::Path),
            ("a//b", TitleError::Path),
            ("../a", TitleError::Path),
            ("a/../b", TitleError::Path),
            ("a/./b", TitleError::Path),
            ("a\\b", TitleError::Path),
            ("a\0b", TitleError::Control),
            ("a\nb", TitleError::Control),
            (&"x".repeat(10_000), TitleError::TooLong(10_000)),
            (&"x".repeat(256), TitleError::TooLong(256)),
        ] {
            assert_eq!(Title::parse(wrong), Err(why));
        }
        assert_eq!(Title::from_bytes(b"a\xff"), Err(TitleError::NotUtf8));
        assert_eq!(Title::parse("films/dune.mp4").map(|t| t.file_name().to_owned()).as_deref(), Ok("dune.mp4"));
    }
}
