//! Sizes in bytes: a whole number and a unit.

use thiserror::Error;

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no size: write 0, or a whole number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, for example 500GB")]
pub struct SizeError(String);

/// Bytes of a text such as `500GB` (1000³) or `2GiB` (1024³).
///
/// # Errors
/// When the text has another form, or names more than [`u64::MAX`] bytes.
pub fn size(text: &str) -> Result<u64, SizeError> {
    let bad = || SizeError(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim() {
        // Zero needs no unit; any other number without one is more likely a mistake than bytes.
        "" if number == 0 => 1,
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        for (text, bytes) in [("0", 0), ("10GB", 10_000_000_000), (" 3 MiB ", 3 << 20), ("7B", 7), ("0GB", 0)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "10", "GB", "-1GB", "1.5GB", "1 furlong", "99999999TB", "1gb"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
