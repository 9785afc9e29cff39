//! What others than this node's sessions send over its link: what the interface counts, less what the node sent.
//! Packet headers and repeated packets are in what the interface counts, and so in this: they fill the link too.

use std::time::Instant;

use usher_proto::Bitrate;

/// The measurement, window by window.
#[derive(Debug, Default)]
pub struct Background {
    /// When it was measured last: bytes that the interface had sent, and the node's own of these.
    last: Option<(Instant, u64, u64)>,
    rate: Bitrate,
}

impl Background {
    /// Takes the interface's count of bytes sent and the node's own. The first measurement opens the first window; a
    /// count that goes back, as when an interface is set up anew, opens another.
    pub fn measure(&mut self, now: Instant, link: u64, own: u64) {
        let last = self.last.replace((now, link, own));
        let Some((at, link_before, own_before)) = last else { return };
        if let Some(sent) = link.checked_sub(link_before).filter(|_| now > at) {
            let others = sent.saturating_sub(own.saturating_sub(own_before));
            self.rate = Bitrate::over(others, now.saturating_duration_since(at));
        }
    }

    /// Bit/s in the last window; 0 before there was one.
    pub fn rate(&self) -> Bitrate {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn others_are_what_the_link_sent_and_the_node_did_not() {
        let start = Instant::now();
        let mut background = Background::default();
        for (second, link, own, rate) in [
            (0, 1_000_000, 5_000, 0),
            (1, 1_003_000, 7_000, 8_000),
            // What waits in the node's buffers is sent, but not yet on the link.
            (2, 1_004_000, 9_000, 0),
            (4, 1_008_000, 9_000, 16_000),
            // Set up anew: no window.
            (5, 50, 9_000, 16_000),
            (6, 1_050, 9_000, 8_000),
            (6, 9_999, 9_000, 8_000),
        ] {
            background.measure(start + Duration::from_secs(second), link, own);
            assert_eq!(background.rate(), Bitrate(rate), "at {second} s");
        }
    }
}
