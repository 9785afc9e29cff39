//! Congestion control as a setting: which of quinn's controllers a side sends by.

use std::sync::Arc;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

/// Bytes that go out before the first of them is acknowledged: set-up, hashes and the first group of a title, so that a
/// viewer sees something one round trip after asking. quinn spreads them over a round trip. The ten packets that are
/// usual (RFC 9002, section 7.2) cost two round trips more, since nothing is played before its whole group is verified.
const INITIAL_WINDOW: u64 = 96 * 1024;

/// How congestion is found and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438: fair beside other traffic.
    #[default]
    Cubic,
    /// Bottleneck bandwidth and round-trip time: faster where loss is not congestion.
    Bbr,
}

impl Congestion {
    /// What quinn makes controllers from.
    pub fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(INITIAL_WINDOW);
                Arc::new(config)
            }
            Self::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(INITIAL_WINDOW);
                Arc::new(config)
            }
        }
    }
}
