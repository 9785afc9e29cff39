//! Background traffic: what others send over the link of the node, which is the count of the interface less what the
//! node sent. It includes packet headers and retransmitted packets, which fill the link too.

use std::time::Instant;

use usher_proto::Bitrate;

/// Measures background traffic from sample to sample.
#[derive(Debug, Default)]
pub struct Background {
    /// Last sample: time, bytes sent by the interface, and bytes sent by the node.
    last: Option<(Instant, u64, u64)>,
    rate: Bitrate,
}

impl Background {
    /// Adds a sample of the bytes sent by the interface and by the node. The first sample starts the measurement; a
    /// count that goes back, as after a reset of the interface, restarts it.
    pub fn measure(&mut self, now: Instant, link: u64, own: u64) {
        let last = self.last.replace((now, link, own));
        let Some((at, link_before, own_before)) = last else { return };
        if let Some(sent) = link.checked_sub(link_before).filter(|_| now > at) {
            let others = sent.saturating_sub(own.saturating_sub(own_before));
            self.rate = Bitrate::over(others, now.saturating_duration_since(at));
        }
    }

    /// Rate between the last two samples; 0 before the second.
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
            // Bytes in the send buffers of the node are not on the link yet.
            (2, 1_004_000, 9_000, 0),
            (4, 1_008_000, 9_000, 16_000),
            // The interface was reset.
            (5, 50, 9_000, 16_000),
            (6, 1_050, 9_000, 8_000),
            (6, 9_999, 9_000, 8_000),
        ] {
            background.measure(start + Duration::from_secs(second), link, own);
            assert_eq!(background.rate(), Bitrate(rate), "at {second} s");
        }
    }
}
