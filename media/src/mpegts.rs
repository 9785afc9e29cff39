//! MPEG transport streams (ISO/IEC 13818-1): packets and program tables, for probing and for segmenting. Trusts no field.

pub(crate) mod packet;
pub(crate) mod tables;

/// Timestamps are 33 bits of a 90 kHz clock: they wrap after 26.5 hours.
pub(crate) const WRAP: u64 = 1 << 33;

/// Ticks of the clock in a second.
pub(crate) const TICKS: u64 = 90_000;
