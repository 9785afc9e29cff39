//! How congestion is found and answered, as a setting.

use std::sync::Arc;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

/// How congestion is found and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Congestion {
    /// RFC 9438: fair beside other traffic
    #[default]
    Cubic,
    /// Bottleneck bandwidth and round-trip time: faster where loss is not congestion
    Bbr,
}

impl Congestion {
    pub(crate) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }
}
