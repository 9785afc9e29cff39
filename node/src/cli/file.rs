//! The node's TOML file: the flags' names as keys. Unknown keys and bad values are errors that name file and line.

use std::{fmt::Display, net::SocketAddr, path::Path, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context as _;
use serde::{Deserialize, Deserializer, de::Error as _};
use usher_proto::{Bitrate, NodeName};

use super::size::Size;
use crate::app::{Congestion, Master, Offload};

/// What a file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    #[serde(deserialize_with = "texts")]
    pub(super) master: Vec<Master>,
    pub(super) media: Vec<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub(super) name: Option<NodeName>,
    #[serde(deserialize_with = "text")]
    pub(super) capacity: Option<Bitrate>,
    #[serde(deserialize_with = "text")]
    pub(super) max_session_rate: Option<Bitrate>,
    pub(super) max_sessions: Option<usize>,
    pub(super) interface: Option<String>,
    #[serde(alias = "label")]
    pub(super) labels: Vec<String>,
    pub(super) zone: Option<String>,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) advertise: Vec<SocketAddr>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) certs: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) replicas: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub(super) replica_quota: Option<Size>,
    #[serde(deserialize_with = "duration")]
    pub(super) media_cert_lifetime: Option<Duration>,
    pub(super) congestion: Option<Congestion>,
    pub(super) offload: Option<Offload>,
    pub(super) threads: Option<usize>,
    pub(super) max_connections: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(super) open_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) stall_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) ticket_grace: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) drain_timeout: Option<Duration>,
    pub(super) no_ingest: bool,
    #[serde(deserialize_with = "duration")]
    pub(super) live_window: Option<Duration>,
    #[serde(deserialize_with = "text")]
    pub(super) live_memory: Option<Size>,
    #[serde(deserialize_with = "duration")]
    pub(super) live_grace: Option<Duration>,
    pub(super) recordings: Option<PathBuf>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and the line that is wrong.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read config file {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("read config file {}", path.display()))
    }
}

fn text<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn texts<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    humantime::parse_duration(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}
