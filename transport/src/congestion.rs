//! Congestion control as a setting: which of quinn's controllers a side sends by.

use std::sync::Arc;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

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
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }
}
