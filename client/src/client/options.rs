//! The settings of a client.

use std::time::Duration;

use usher_certs::files::PemSet;
use usher_proto::Bitrate;
use usher_transport::Congestion;

use crate::token::Token;

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Options {
    /// A transfer or call fails after this time without progress.
    pub timeout: Duration,
    /// The client's zone; empty if unknown.
    pub zone: String,
    /// Rate of all transfers together; `None` for no limit.
    pub limit: Option<Bitrate>,
    /// Certificate and key that the master sees; `None` for an anonymous client.
    pub identity: Option<PemSet>,
    /// Token that identifies the viewer at the master; `None` where viewers need none.
    pub token: Option<Token>,
    /// Congestion control towards the nodes.
    pub congestion: Congestion,
    /// Nodes that may send a fetched title at once; `None` for as many as make it faster.
    pub sources: Option<usize>,
    /// The master prepares each fetched title on its node before it answers.
    pub brokered: bool,
}

impl Default for Options {
    fn default() -> Self {
        let (timeout, congestion) = (Duration::from_secs(30), Congestion::default());
        Self {
            timeout,
            zone: String::new(),
            limit: None,
            identity: None,
            token: None,
            congestion,
            sources: None,
            brokered: false,
        }
    }
}
