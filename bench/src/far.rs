//! A distant cluster: a master and nodes as real processes behind relays on loopback. Also the row type of the JSON reports.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use usher_kit::{Cluster, address_in};
use usher_relay::{TcpRelay, UdpRelay};

use crate::cluster::usher;

/// A real clip that the repository ships.
const CLIP: &[u8] = include_bytes!("../../media/samples/B.mp4");

/// An authority and a master; nodes are added.
pub(crate) struct Far {
    cluster: Cluster,
    master: SocketAddr,
}

impl Far {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start(&usher()?, &["--log", "info"])?;
        let master = cluster.address.parse().context("the master's address")?;
        Ok(Self { cluster, master })
    }

    /// Adds a node that clients find behind `relay`, with titles of so many bytes, and waits until the master knows them.
    pub(crate) async fn node(
        &mut self,
        name: &str,
        relay: &UdpRelay,
        titles: &[(&str, u32)],
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let media = self.cluster.media(name);
        fs::create_dir_all(&media).context("make the media folder")?;
        for (title, size) in titles {
            write_film(&media.join(title), title, *size).with_context(|| format!("write {title}"))?;
        }
        let entrance = relay.entrance().await?;
        let advertise = entrance.address().to_string();
        let more = ["--advertise", &advertise, "--capacity", "10gbit", "--log", "info"];
        let node = self.cluster.spawn_node(name, &[&more[..], flags].concat())?;
        entrance.forward_to(address_in(&node.find("node started")?.0)?);
        node.find("library is hashed")?;
        for (title, _) in titles {
            self.known(title)?;
        }
        Ok(())
    }

    /// Asks the master until it knows a title with its content id.
    fn known(&self, title: &str) -> anyhow::Result<()> {
        loop {
            let list = self.cluster.catalog()?;
            let known = list.iter().find(|entry| entry["title"] == title);
            if known.is_some_and(|entry| entry["content_id"].as_str().is_some_and(|id| id.len() == 64)) {
                return Ok(());
            }
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.cluster.ca()
    }

    /// The master's own address, without a relay.
    pub(crate) fn master(&self) -> SocketAddr {
        self.master
    }

    /// A relay to the master.
    pub(crate) async fn road(&self, delay: Duration) -> anyhow::Result<TcpRelay> {
        TcpRelay::start(self.master, delay).await
    }
}

/// A clip with a free box behind it, which readers of MP4 skip. Each title has its own content; most of it is a hole.
fn write_film(path: &Path, title: &str, size: u32) -> anyhow::Result<()> {
    let mut head = CLIP.to_vec();
    let clip = u32::try_from(head.len()).context("a short clip")?;
    let free = size.checked_sub(clip).filter(|free| *free > 1000).context("a longer film")?;
    head.extend_from_slice(&free.to_be_bytes());
    head.extend_from_slice(b"free");
    head.extend_from_slice(title.as_bytes());
    let draft = path.with_extension("part");
    fs::write(&draft, head)?;
    fs::File::options().write(true).open(&draft)?.set_len(size.into())?;
    Ok(fs::rename(draft, path)?)
}

/// One figure and the figure that it is compared with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RatioRow {
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) against: &'static str,
    /// `usher / peer`.
    pub(crate) ratio: f64,
    /// The least and the greatest ratio of all runs.
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) usher: f64,
    pub(crate) peer: f64,
}

/// Writes the rows to `path`, if there is one.
pub(crate) fn write_json(path: Option<&Path>, rows: &[RatioRow]) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    ensure!(!rows.is_empty(), "there is something to write");
    let text = serde_json::json!({ "rows": rows }).to_string();
    fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))
}
