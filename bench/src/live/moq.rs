//! The peer: moq-relay, moq as its publisher, and viewers in a separate program, because their libraries are not
//! among Usher's dependencies.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use usher_certs::pin::sha256;
use usher_kit::Process;

use super::{clip::Clip, cluster::Publisher};
use crate::{
    cluster::{output, start, start_fed},
    peers::testbed::find,
};

/// Name of the broadcast.
const BROADCAST: &str = "bench.hang";

/// The programs.
pub(crate) struct MoqPrograms {
    relay: PathBuf,
    publisher: PathBuf,
    viewers: PathBuf,
}

impl MoqPrograms {
    /// The programs in `folder` or on PATH, and the viewers, which it builds. Reports missing ones on standard error.
    pub(crate) fn find(folder: Option<&Path>) -> Option<Self> {
        let there = |name: &str, how: &str| match folder {
            Some(folder) => Some(folder.join(name)).filter(|file| file.is_file()).or_else(|| find(name, how)),
            None => find(name, how),
        };
        let relay = there("moq-relay", "cargo install moq-relay --no-default-features --features noq");
        let publisher = there("moq", "cargo install moq-cli");
        let (relay, publisher) = relay.zip(publisher)?;
        match build() {
            Ok(viewers) => Some(Self { relay, publisher, viewers }),
            Err(error) => {
                eprintln!("MISSING PEER: the viewers of moq-relay: {error:#}; going on without it");
                None
            }
        }
    }
}

/// Builds the viewers, whose sources lie beside this program's.
fn build() -> anyhow::Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("moq");
    let program = std::env::current_exe().context("find this program")?;
    // Beside `release` and `debug`.
    let target = program.parent().and_then(Path::parent).context("a folder of builds")?.join("moq");
    eprintln!("building the viewers of moq-relay, which takes minutes the first time");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(sources.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target).stdin(Stdio::null());
    ensure!(cargo.status().context("run cargo")?.success(), "they do not build");
    Ok(target.join("release/usher-bench-moq"))
}

/// A relay and a broadcast on it.
pub(crate) struct MoqRelay {
    pub(crate) relay: Process,
    url: String,
    pin: String,
    _publisher: Publisher,
    _dir: TempDir,
}

impl MoqRelay {
    /// Starts the relay, and publishes the clip as it plays.
    pub(crate) fn start(programs: &MoqPrograms, clip: &Arc<Clip>) -> anyhow::Result<Self> {
        // Alone in its folder: the relay watches it, and would read its certificates anew at each change.
        let dir = tempfile::tempdir().context("make a temporary folder")?;
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(&cert, issued.cert.pem()).context("write a certificate")?;
        fs::write(&key, issued.signing_key.serialize_pem()).context("write a key")?;
        let pin = sha256(issued.cert.der()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // Free a moment ago; no other program takes ports here.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().context("find a free port")?.port();
        let mut relay = Command::new(&programs.relay);
        relay.args(["--listen", &format!("127.0.0.1:{port}"), "--auth-public", "**", "--log-level", "info"]);
        relay.arg("--listen-tls-cert").arg(&cert).arg("--listen-tls-key").arg(&key);
        let mut relay = start(relay.stdout(Stdio::null()))?;
        relay.find("listening")?;
        relay.ignore_log();
        let url = format!("moql://localhost:{port}/");
        let mut publisher = Command::new(&programs.publisher);
        publisher.args(["--connect", &url, "--connect-tls-fingerprint", &pin, "--log-level", "warn"]);
        let publisher = Publisher::start(publisher.args(["--broadcast", BROADCAST, "import", "ts"]), clip)?;
        Ok(Self { relay, url, pin, _publisher: publisher, _dir: dir })
    }

    /// Seats viewers until each has media.
    pub(crate) fn seat(&self, programs: &MoqPrograms, viewers: usize) -> anyhow::Result<MoqViewers> {
        let mut command = Command::new(&programs.viewers);
        command.args([&self.url, &self.pin, BROADCAST, &viewers.to_string()]);
        let (mut process, ask) = start_fed(command.stdout(Stdio::piped()))?;
        let mut answers = BufReader::new(output(&mut process)?);
        process.ignore_log();
        let mut line = String::new();
        answers.read_line(&mut line).context("read what the viewers say")?;
        ensure!(line.trim_end() == "joined", "the viewers did not all join");
        Ok(MoqViewers { _process: process, ask, answers })
    }
}

/// Viewers with a seat.
pub(crate) struct MoqViewers {
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl MoqViewers {
    /// Media that all viewers have received, in bytes, and incomplete groups.
    pub(crate) fn bytes(&mut self) -> anyhow::Result<(u64, u64)> {
        self.ask.write_all(b"\n").context("ask the viewers")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read what the viewers say")?;
        let words: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [bytes, _groups, broken] = words[..] else { anyhow::bail!("a viewer of moq-relay left: `{line}`") };
        Ok((bytes, broken))
    }
}
