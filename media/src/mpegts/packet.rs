//! One packet of a transport stream (ISO/IEC 13818-1, 2.4.3). Trusts no field of it.

/// Bytes of a packet.
pub(crate) const PACKET: usize = 188;

/// The first byte of every packet.
pub(crate) const SYNC: u8 = 0x47;

/// A moment on the 90 kHz clock.
pub(crate) type Ticks = u64;

/// The used fields of a packet.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    pub(crate) pid: u16,
    /// Its payload begins a unit: a section of a table, or a PES packet.
    pub(crate) starts: bool,
    /// A decoder may begin here.
    pub(crate) random_access: bool,
    pub(crate) scrambled: bool,
    pub(crate) pcr: Option<Ticks>,
    pub(crate) pts: Option<Ticks>,
    /// Empty when there is none, and when the packet is marked as damaged.
    pub(crate) payload: &'a [u8],
}

impl<'a> From<&'a [u8; PACKET]> for Parsed<'a> {
    fn from(packet: &'a [u8; PACKET]) -> Self {
        let [_, a, b, control, rest @ ..] = packet;
        let pid = u16::from(a & 0x1f) << 8 | u16::from(*b);
        let mut parsed = Self {
            pid,
            starts: false,
            random_access: false,
            scrambled: control & 0xc0 != 0,
            pcr: None,
            pts: None,
            payload: &[],
        };
        if a & 0x80 != 0 {
            return parsed;
        }
        let mut payload = rest.as_slice();
        if control & 0x20 != 0 {
            let Some((adaptation, after)) =
                rest.split_first().and_then(|(len, rest)| rest.split_at_checked(usize::from(*len)))
            else {
                return parsed;
            };
            let flags = adaptation.first().copied().unwrap_or(0);
            parsed.random_access = flags & 0x40 != 0;
            if let (true, Some([a, b, c, d, e])) = (flags & 0x10 != 0, adaptation.get(1..6)) {
                let [a, b, c, d, e] = [a, b, c, d, e].map(|byte| u64::from(*byte));
                parsed.pcr = Some(a << 25 | b << 17 | c << 9 | d << 1 | e >> 7);
            }
            payload = after;
        }
        if control & 0x10 == 0 {
            return parsed;
        }
        parsed.starts = a & 0x40 != 0;
        parsed.payload = payload;
        if parsed.starts && !parsed.scrambled {
            parsed.pts = pts(payload);
        }
        parsed
    }
}

/// The PTS of a PES header of audio or video.
fn pts(payload: &[u8]) -> Option<Ticks> {
    let [0, 0, 1, 0xbd..=0xfd, _, _, _, flags, _, a, b, c, d, e, ..] = *payload else { return None };
    let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
    (flags & 0x80 != 0).then_some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}
