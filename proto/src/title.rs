//! A title: a location-free name such as `films/dune.mp4`. Owns the rule of what a name may be.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use crate::text::is_invisible;

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
    /// A control or formatting character, NUL and changes of direction among them, or a separator of lines.
    #[error("a title must not contain control or invisible characters; this one has U+{:04X}", *.0 as u32)]
    Invisible(char),
    /// A part that begins with a dot, as hidden files and the settings of a shell do.
    #[error("no part of a title begins with a dot")]
    Hidden,
    /// `.`, `..`, an empty part, or a slash at an end.
    #[error("a title is a relative path without `.`, `..` and empty parts, and without `\\`")]
    Path,
}

/// A valid title; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Title(Arc<str>);

impl Title {
    /// Checks a name: UTF-8 text of 1 to 1024 bytes, a relative path of parts that are neither hidden nor special, without
    /// [invisible characters](crate::text::is_invisible).
    pub fn parse(name: &str) -> Result<Self, TitleError> {
        if name.is_empty() {
            return Err(TitleError::Empty);
        }
        if name.len() > MAX_BYTES || name.split('/').any(|part| part.len() > MAX_PART_BYTES) {
            return Err(TitleError::TooLong(name.len()));
        }
        if let Some(c) = name.chars().find(|c| is_invisible(*c)) {
            return Err(TitleError::Invisible(c));
        }
        if name.contains('\\') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(TitleError::Path);
        }
        if name.split('/').any(|part| part.starts_with('.')) {
            return Err(TitleError::Hidden);
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
        for good in
            ["a", "films/dune.mp4", "ä/ö ü.webm", "a..b", "a.", "שלום/فیلم.mp4", "x/".repeat(500).trim_end_matches('/')]
        {
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
            ("a\0b", TitleError::Invisible('\0')),
            ("a\nb", TitleError::Invisible('\n')),
            ("a\u{202e}4pm.exe", TitleError::Invisible('\u{202e}')),
            ("a\u{200b}b", TitleError::Invisible('\u{200b}')),
            ("a\u{2028}b", TitleError::Invisible('\u{2028}')),
            ("👩\u{200d}🚀.mp4", TitleError::Invisible('\u{200d}')),
            (".bash_profile", TitleError::Hidden),
            (".ssh/rc", TitleError::Hidden),
            ("films/.hidden.mp4", TitleError::Hidden),
            ("...", TitleError::Hidden),
            (&"x".repeat(10_000), TitleError::TooLong(10_000)),
            (&"x".repeat(256), TitleError::TooLong(256)),
        ] {
            assert_eq!(Title::parse(wrong), Err(why));
        }
        assert_eq!(Title::from_bytes(b"a\xff"), Err(TitleError::NotUtf8));
        assert_eq!(Title::parse("films/dune.mp4").map(|t| t.file_name().to_owned()).as_deref(), Ok("dune.mp4"));
    }
}
