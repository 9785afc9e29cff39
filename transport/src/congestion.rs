//! The choice of congestion controller.

use std::sync::Arc;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

/// Bytes sent before the first acknowledgement: set-up, hashes and the first group of a title, so that playing begins one
/// round trip after the request. quinn paces them over a round trip. The usual ten packets (RFC 9002, section 7.2) cost two
/// round trips more, since a group plays only once it is verified whole.
const INITIAL_WINDOW: u64 = 96 * 1024;

/// A congestion control algorithm.
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
    /// The factory of the controllers, for quinn's configuration.
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
