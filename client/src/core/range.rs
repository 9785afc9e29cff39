//! `--range A-B`, counted as in HTTP (RFC 9110, section 14.1.2) and curl: both ends are included.

use thiserror::Error;
use usher_proto::{model::Range, text::printable_within};

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no range: write FIRST-LAST, both included and counted from 0, or FIRST- for the rest")]
pub struct RangeError(String);

/// Reads `A-B` or `A-`.
pub fn parse(text: &str) -> Result<Range, RangeError> {
    let wrong = || RangeError(printable_within(text, 60));
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse::<u64>().ok() } else { None }
    };
    let (start, end) = text.split_once('-').ok_or_else(wrong)?;
    let start = number(start).ok_or_else(wrong)?;
    if end.is_empty() {
        return Ok(Range { start, end: None });
    }
    let end = number(end).and_then(|last| last.checked_add(1)).filter(|end| *end > start).ok_or_else(wrong)?;
    Ok(Range { start, end: Some(end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, start, end) in [("0-0", 0, Some(1)), ("5-9", 5, Some(10)), ("7-", 7, None)] {
            assert_eq!(parse(text), Ok(Range { start, end }), "{text}");
        }
        for text in ["", "-", "-5", "5", "9-5", "a-b", "1-2-3", "+1-2", " 1-2", "0-18446744073709551615"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
