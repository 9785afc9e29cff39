//! Detects keyframes by the first units of a picture, for muxers that do not mark them. Decodes nothing else.

/// Codecs whose units are known. Each unit begins with 00 00 01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    /// ISO/IEC 13818-2.
    Mpeg2,
    /// ITU-T H.264, table 7-1.
    H264,
    /// ITU-T H.265, table 7-1.
    Hevc,
}

/// Scans one picture up to its first slice, which shows whether it is a keyframe.
#[derive(Debug)]
pub(super) struct Scan {
    units: Units,
    /// The last three bytes.
    window: u32,
    /// Whether the PES header was skipped.
    within: bool,
}

impl Scan {
    /// A scan for a codec by name; `None` for an unknown one.
    pub(super) fn new(codec: &str) -> Option<Self> {
        let units = match codec {
            "mpeg1" | "mpeg2" => Units::Mpeg2,
            "h264" => Units::H264,
            "hevc" => Units::Hevc,
            _ => return None,
        };
        Some(Self { units, window: u32::MAX, within: false })
    }

    /// Takes the payload of the next packet; returns whether the picture is a keyframe, once that is known.
    pub(super) fn take(&mut self, payload: &[u8]) -> Option<bool> {
        let mut bytes = payload;
        if !self.within {
            self.within = true;
            // Nine bytes; the last is the number of bytes that follow.
            let len = payload.get(8).map_or(payload.len(), |more| 9 + usize::from(*more));
            bytes = payload.get(len..).unwrap_or_default();
        }
        for byte in bytes {
            if self.window & 0xff_ffff == 1
                && let Some(key) = self.is_keyframe_unit(*byte)
            {
                return Some(key);
            }
            self.window = self.window << 8 | u32::from(*byte);
        }
        None
    }

    fn is_keyframe_unit(&self, unit: u8) -> Option<bool> {
        match (self.units, unit) {
            (Units::Mpeg2, 0xb3 | 0xb8) => Some(true),
            (Units::Mpeg2, 0) => Some(false),
            (Units::Mpeg2, _) => None,
            (Units::H264, unit) => match unit & 0x1f {
                5 => Some(true),
                1..=4 => Some(false),
                _ => None,
            },
            (Units::Hevc, unit) => match unit >> 1 & 0x3f {
                16..=23 => Some(true),
                0..=15 => Some(false),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_slice_shows_a_keyframe() {
        let pes = [0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 2, 0, 0];
        let access: [(&str, &[u8], Option<bool>); 9] = [
            ("h264", &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65], Some(true)),
            ("h264", &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x41], Some(false)),
            ("h264", &[0, 0, 1, 0x67, 0, 0, 1, 0x06], None),
            ("hevc", &[0, 0, 1, 0x40, 1, 0, 0, 1, 0x28, 1], Some(true)),
            ("hevc", &[0, 0, 1, 0x46, 1, 0, 0, 1, 0x02, 1], Some(false)),
            ("mpeg2", &[0, 0, 1, 0xb3], Some(true)),
            ("mpeg2", &[0, 0, 1, 0], Some(false)),
            ("h264", &[], None),
            ("h264", &[1, 2, 3, 0, 1, 0x65], None),
        ];
        for (codec, units, expected) in access {
            let bytes = [&pes[..], units].concat();
            // In one packet, and with the units cut anywhere.
            for at in pes.len()..=bytes.len() {
                let mut scan = Scan::new(codec).expect("known");
                let found = scan.take(&bytes[..at]).or_else(|| scan.take(&bytes[at..]));
                assert_eq!(found, expected, "{codec} {units:?} cut at {at}");
            }
        }
        assert!(Scan::new("av1").is_none());
        assert_eq!(Scan::new("h264").and_then(|mut scan| scan.take(&[0, 0, 1])), None, "half a header");
    }
}
