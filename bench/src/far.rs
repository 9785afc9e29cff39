//! A cluster that is far away: a master and nodes as real processes, reached through relays on loopback. And the shape
//! of what is written of it as JSON.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tempfile::TempDir;
use usher_certs::{
    Identity, Role,
    files::{init, issue},
};
use usher_relay::{TcpRelay, UdpRelay};

use crate::cluster::{Part, ask};

/// A real clip that the repository ships.
const CLIP: &[u8] = include_bytes!("../../media/samples/B.mp4");

/// An authority and a master; nodes are added.
pub(crate) struct Far {
    dir: TempDir,
    master: SocketAddr,
    parts: Vec<Part>,
}

impl Far {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a temporary folder")?;
        let certs = dir.path().join("certs");
        init(&certs, "bench", false)?;
        issue(&certs, &Identity::new(Role::Master, "master")?, &[], &certs, false)?;
        let (certs, state) = (text(&certs), text(&dir.path().join("master")));
        let mut part = Part::start(&["master", "--listen", "127.0.0.1:0", "--certs", &certs, "--state", &state])?;
        let master = address(&part.line_with("master listens")?.0)?;
        Ok(Self { dir, master, parts: vec![part] })
    }

    /// Adds a node that clients find behind `relay`, with titles of so many bytes, and waits until the master knows them.
    pub(crate) async fn node(
        &mut self,
        name: &str,
        relay: &UdpRelay,
        titles: &[(&str, u32)],
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let certs = self.dir.path().join("certs");
        issue(&certs, &Identity::new(Role::Node, name)?, &[], &certs, false)?;
        let (media, state) = (self.dir.path().join(name).join("media"), self.dir.path().join(name).join("state"));
        fs::create_dir_all(&media).context("make the media folder")?;
        for (title, size) in titles {
            write_film(&media.join(title), title, *size).with_context(|| format!("write {title}"))?;
        }
        let door = relay.door().await?;
        let (master, advertise) = (self.master.to_string(), door.address().to_string());
        let (certs, media, state) = (text(&certs), text(&media), text(&state));
        let args = ["node", "--name", name, "--master", &master, "--listen", "127.0.0.1:0", "--advertise", &advertise];
        let more = ["--certs", &certs, "--media", &media, "--state", &state, "--capacity", "10gbit"];
        let mut part = Part::start(&[&args[..], &more, flags].concat())?;
        door.lead_to(address(&part.line_with("node started")?.0)?);
        part.line_with("library is hashed")?;
        self.parts.push(part);
        for (title, _) in titles {
            self.known(title)?;
        }
        Ok(())
    }

    /// Asks the master until it knows a title with its content id.
    fn known(&self, title: &str) -> anyhow::Result<()> {
        loop {
            let list = ask(&self.ca(), &["ls", "--json", &format!("usher://{}", self.master)])?;
            let list: serde_json::Value = serde_json::from_slice(&list).context("read the list of titles")?;
            let known = list.as_array().context("a list")?.iter().find(|entry| entry["title"] == title);
            if known.is_some_and(|entry| entry["content_id"].as_str().is_some_and(|id| id.len() == 64)) {
                return Ok(());
            }
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("certs").join("ca.pem")
    }

    /// Where the master listens, without a relay.
    pub(crate) fn master(&self) -> SocketAddr {
        self.master
    }

    /// A relay to the master.
    pub(crate) async fn road(&self, delay: Duration) -> anyhow::Result<TcpRelay> {
        TcpRelay::start(self.master, delay).await
    }
}

/// A clip with a free box behind it, which readers of MP4 skip. Its content is its title's own, and most of it a hole.
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

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The address that a log line tells.
fn address(line: &str) -> anyhow::Result<SocketAddr> {
    let at = line.find("127.0.0.1:").context("an address in the log")?;
    let text: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    text.parse().with_context(|| format!("an address in `{text}`"))
}

/// One figure beside what it is held against.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
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

/// Writes the rows, if that is wanted.
pub(crate) fn write_json(path: Option<&Path>, rows: &[Row]) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    ensure!(!rows.is_empty(), "there is something to write");
    let text = serde_json::json!({ "rows": rows }).to_string();
    fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))
}
