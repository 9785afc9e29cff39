//! The state file beside a `.part`: what is being fetched, and the hashes of the written groups, one a line.
//!
//! Lines are only appended, so a crash costs at most the last one. The hashes are checked against the bytes on the disk
//! before a fetch resumes, so the order in which the two files reach the disk does not matter. Leaves files to the sinks, and
//! parses any bytes.
//!
//! ```text
//! usher-part 1
//! content 3f…
//! size 1048576
//! range 0 1048576
//! title films/dune.mp4
//! 8c…
//! ```

use std::{fmt::Write as _, ops::Range};

use thiserror::Error;
use usher_proto::{ContentId, Title, title::MAX_BYTES, tree::Value};

const MAGIC: &str = "usher-part 1";

/// The first bytes of a file of any version.
pub const MARK: &[u8] = b"usher-part ";

/// Longest header in bytes.
pub const MAX_HEADER: usize = MAX_BYTES + 256;

/// Bytes of a hash's line.
pub const LINE: usize = 65;

/// Why a state file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// No state file, or a damaged one.
    #[error("the state file is damaged at `{0}`")]
    Damaged(&'static str),
    /// A file of another version.
    #[error("the state file was written by another version")]
    Version,
    /// It belongs to another transfer.
    #[error("the part belongs to another {0}")]
    Other(&'static str),
}

/// The transfer that a part belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Content id of the title.
    pub content: ContentId,
    /// Size of the title in bytes.
    pub size: u64,
    /// The wanted bytes of it.
    pub range: Range<u64>,
    /// The title.
    pub title: Title,
}

impl Header {
    /// The lines before the hashes.
    pub fn text(&self) -> String {
        let Self { content, size, range, title } = self;
        format!("{MAGIC}\ncontent {content}\nsize {size}\nrange {} {}\ntitle {title}\n", range.start, range.end)
    }

    /// Checks that a part with the header `there` can be continued. The title does not matter: the content decides.
    pub fn continues(&self, there: &Self) -> Result<(), StateError> {
        if there.content != self.content || there.size != self.size {
            return Err(StateError::Other("content"));
        }
        if there.range != self.range {
            return Err(StateError::Other("range"));
        }
        Ok(())
    }
}

/// The line of one hash.
pub fn line(value: &Value) -> String {
    let mut line = String::with_capacity(LINE);
    for byte in value {
        // Writing to a String cannot fail.
        write!(line, "{byte:02x}").unwrap_or_default();
    }
    line.push('\n');
    line
}

/// Parses a state file. Hashes end at the first line that is none: a crash may have truncated the last one.
pub fn parse(bytes: &[u8]) -> Result<(Header, Vec<Value>), StateError> {
    let damaged = |what| move || StateError::Damaged(what);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut text = |what: &'static str| {
        let line = lines.next().and_then(|line| line.strip_suffix(b"\n")).ok_or_else(damaged(what))?;
        let line = if line.len() <= MAX_HEADER { std::str::from_utf8(line).ok() } else { None };
        line.ok_or_else(damaged(what))
    };
    match text("usher-part")? {
        MAGIC => {}
        other if other.starts_with("usher-part ") => return Err(StateError::Version),
        _ => return Err(StateError::Damaged("usher-part")),
    }
    let mut field = |name: &'static str| {
        let line = text(name)?;
        line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(damaged(name))
    };
    let content = field("content")?.parse().map_err(|_| StateError::Damaged("content"))?;
    let size: u64 = field("size")?.parse().map_err(|_| StateError::Damaged("size"))?;
    let (start, end) = field("range")?.split_once(' ').ok_or_else(damaged("range"))?;
    let (start, end) = (start.parse::<u64>().ok(), end.parse::<u64>().ok());
    let range = start.zip(end).map(|(start, end)| start..end).ok_or_else(damaged("range"))?;
    if range.start >= range.end || range.end > size {
        return Err(StateError::Damaged("range"));
    }
    let title = Title::parse(field("title")?).map_err(|_| StateError::Damaged("title"))?;
    let values = lines.map_while(|line| {
        let mut value = [0; 32];
        let digits = line.strip_suffix(b"\n")?;
        hex::decode_to_slice(digits, &mut value).ok().map(|()| value)
    });
    Ok((Header { content, size, range, title }, values.collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        let title = Title::parse("films/ö dune.mp4").expect("valid");
        Header { content: ContentId([7; 32]), size: 1000, range: 10..1000, title }
    }

    fn file(values: &[Value]) -> String {
        values.iter().fold(header().text(), |text, value| text + &line(value))
    }

    #[test]
    fn a_truncated_file_loses_only_its_last_lines() {
        let values = [[1; 32], [0xab; 32], [3; 32]];
        let text = file(&values);
        assert_eq!(parse(text.as_bytes()), Ok((header(), values.to_vec())));
        assert_eq!(text.len(), header().text().len() + 3 * LINE);
        for cut in 1..=LINE {
            let (_, left) = parse(&text.as_bytes()[..text.len() - cut]).expect("the header is whole");
            assert_eq!(left, values[..2], "{cut} bytes cut");
        }
        let spoilt = text.replace("abab", "zzzz");
        assert_eq!(parse(spoilt.as_bytes()).map(|(_, values)| values.len()), Ok(1));
    }

    #[test]
    fn errors_name_the_damaged_line() {
        let text = file(&[]);
        for (from, to, why) in [
            ("usher-part 1", "usher-part 2", StateError::Version),
            ("usher-part 1", "GIF89a", StateError::Damaged("usher-part")),
            ("content 07", "content xx", StateError::Damaged("content")),
            ("size 1000", "size -1", StateError::Damaged("size")),
            ("size 1000", "size 999", StateError::Damaged("range")),
            ("range 10 1000", "range 10 10", StateError::Damaged("range")),
            ("range 10 1000", "range 10", StateError::Damaged("range")),
            ("title films", "title ../films", StateError::Damaged("title")),
            ("title films", "name films", StateError::Damaged("title")),
        ] {
            assert_eq!(parse(text.replace(from, to).as_bytes()), Err(why), "{to}");
        }
        assert_eq!(parse(b""), Err(StateError::Damaged("usher-part")));
        assert_eq!(parse(&[b'x'; 100_000]), Err(StateError::Damaged("usher-part")));
    }

    #[test]
    fn another_content_or_range_starts_over() {
        let (want, there) = (header(), header());
        let renamed = Header { title: Title::parse("b").expect("valid"), ..header() };
        assert_eq!((want.continues(&there), want.continues(&renamed)), (Ok(()), Ok(())));
        let other = Header { content: ContentId([8; 32]), ..header() };
        assert_eq!(want.continues(&other), Err(StateError::Other("content")));
        assert_eq!(want.continues(&Header { range: 0..1000, ..header() }), Err(StateError::Other("range")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn no_damage_panics(at in 0_usize..300, byte in any::<u8>(), cut in 0_usize..300) {
            let mut bytes = file(&[[1; 32], [2; 32]]).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _result = parse(&bytes);
        }
    }
}
