//! Rates as people write them and as the cluster counts them: whole bits per second; and times in milliseconds.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// No number in front.
    #[error("`{0}` is no rate: write a number and a unit, for example 800kbit, 25mbit, 1.5gbit or 10MB/s")]
    Number(String),
    /// A unit that is not known, or none.
    #[error(
        "`{0}` has no known unit: use bit, kbit, mbit, gbit or tbit (per second), or kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s"
    )]
    Unit(String),
    /// Zero, or more than the counters hold.
    #[error("`{0}` is out of range: a rate is at least 1 bit/s and at most 1000 tbit/s")]
    Range(String),
}

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(pub u64);

/// The highest accepted rate, 1 Pbit/s: a sum of thousands of such rates fits into 64 bits.
pub const MAX_RATE: u64 = 1_000_000_000_000_000;

/// The last second that X.509 and RFC 3339 can write, in Unix seconds: 9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5).
pub const LAST_UNIX_SECOND: u64 = 253_402_300_799;

impl Bitrate {
    /// The rate at which `bytes` pass in `time`; 0 for no time.
    pub fn over(bytes: u64, time: Duration) -> Self {
        let nanos = time.as_nanos();
        if nanos == 0 {
            return Self(0);
        }
        let bits = u128::from(bytes) * 8 * 1_000_000_000;
        Self(u64::try_from(bits / nanos).unwrap_or(u64::MAX).min(MAX_RATE))
    }

    /// Bytes that pass in `time` at this rate.
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_nanos() / 8_000_000_000).unwrap_or(u64::MAX)
    }

    /// The time that `bytes` take at this rate; `None` at rate 0.
    pub fn time_for(self, bytes: u64) -> Option<Duration> {
        let nanos = (u128::from(bytes) * 8_000_000_000).checked_div(u128::from(self.0))?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl FromStr for Bitrate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let bad = || RateError::Number(text.to_owned());
        if whole.is_empty() || whole.len() > 15 || fraction.len() > 9 || fraction.contains('.') {
            return Err(bad());
        }
        let factor: u128 = match unit.trim() {
            "bit" | "bps" | "bit/s" => 1,
            "kbit" | "kbps" | "kbit/s" | "Kbit/s" => 1_000,
            "mbit" | "mbps" | "mbit/s" | "Mbit/s" | "Mbit" => 1_000_000,
            "gbit" | "gbps" | "gbit/s" | "Gbit/s" | "Gbit" => 1_000_000_000,
            "tbit" | "tbps" | "tbit/s" | "Tbit/s" | "Tbit" => 1_000_000_000_000,
            "B/s" => 8,
            "kB/s" | "KB/s" => 8_000,
            "MB/s" => 8_000_000,
            "GB/s" => 8_000_000_000,
            "KiB/s" => 8 << 10,
            "MiB/s" => 8 << 20,
            "GiB/s" => 8 << 30,
            _ => return Err(RateError::Unit(text.to_owned())),
        };
        // In units of 10^-9: exact for everything that was written.
        let nano = format!("{whole}{fraction:0<9}").parse::<u128>().map_err(|_| bad())?;
        let rate = nano * factor / 1_000_000_000;
        match u64::try_from(rate) {
            Ok(rate) if (1..=MAX_RATE).contains(&rate) => Ok(Self(rate)),
            _ => Err(RateError::Range(text.to_owned())),
        }
    }
}

impl fmt::Display for Bitrate {
    /// Three significant digits and a decimal unit: `1.5 Gbit/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = decimal(self.0);
        write!(f, "{value} {unit}bit/s")
    }
}

/// Whole milliseconds of a time, as messages carry them; the largest number for what is beyond it.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes for people, in decimal units: `1.5 GB`.
pub fn bytes(count: u64) -> String {
    let (value, unit) = decimal(count);
    format!("{value} {unit}B")
}

fn decimal(value: u64) -> (String, &'static str) {
    let units = ["", "k", "M", "G", "T", "P", "E"];
    let mut step = 0;
    let mut scale = 1_u64;
    while value / scale >= 1000 && step + 1 < units.len() {
        scale *= 1000;
        step += 1;
    }
    let whole = value / scale;
    // `value % scale` is below 10^18, so ten times it fits in 128 bits only.
    let tenth = u128::from(value % scale) * 10 / u128::from(scale);
    let text = if whole < 100 && step > 0 && tenth > 0 { format!("{whole}.{tenth}") } else { whole.to_string() };
    (text, units[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_parse() {
        for (text, rate) in [
            ("1gbit", 1_000_000_000),
            ("1.5gbit", 1_500_000_000),
            (" 25 mbit ", 25_000_000),
            ("0.001kbit", 1),
            ("10MB/s", 80_000_000),
            ("1MiB/s", 8_388_608),
            ("1000tbit", MAX_RATE),
        ] {
            assert_eq!(text.parse(), Ok(Bitrate(rate)), "{text}");
        }
        for text in ["", "gbit", "-1gbit", "1", "1 furlong", "0mbit", "1001tbit", "1.2.3mbit", "1e9bit", "NaN", "inf"] {
            assert!(text.parse::<Bitrate>().is_err(), "{text}");
        }
        assert!("9".repeat(400).parse::<Bitrate>().is_err());
    }

    #[test]
    fn rates_print() {
        for (rate, text) in [
            (0, "0 bit/s"),
            (999, "999 bit/s"),
            (1_000, "1 kbit/s"),
            (1_500_000_000, "1.5 Gbit/s"),
            (999_999_999, "999 Mbit/s"),
            (u64::MAX, "18.4 Ebit/s"),
        ] {
            assert_eq!(Bitrate(rate).to_string(), text);
        }
        assert_eq!(bytes(2_340_000), "2.3 MB");
    }

    #[test]
    fn rates_and_times() {
        assert_eq!(Bitrate::over(125, Duration::from_secs(1)), Bitrate(1000));
        assert_eq!(Bitrate::over(1, Duration::ZERO), Bitrate(0));
        assert_eq!(Bitrate(8_000).bytes_in(Duration::from_millis(500)), 500);
        assert_eq!(Bitrate(8_000).time_for(500), Some(Duration::from_millis(500)));
        assert_eq!(Bitrate(0).time_for(500), None);
    }
}
