//! The commands of a client: `fetch`, `play`, `publish`, `ls`, `locate`, `nodes` and `explain`, and those of operators: `drain`,
//! `undrain` and `rebalance`. Owns what they share: the master's address, the authority, how they fail and how they are
//! interrupted. Standard output carries data only.

mod admin;
mod explain;
mod fetch;
mod live;
mod locate;
mod ls;
mod meter;
mod nodes;
mod operate;
mod play;
mod player;
mod publish;

use std::{fmt, io::Write as _, path::PathBuf, time::Duration};

use usher_proto::{Code, Fault, id, pb::v1};

use self::admin::Operator;
pub use self::{
    explain::ExplainArgs,
    fetch::FetchArgs,
    locate::LocateArgs,
    ls::LsArgs,
    nodes::NodesArgs,
    operate::{DrainArgs, RebalanceArgs, UndrainArgs},
    play::PlayArgs,
    publish::PublishArgs,
};
use crate::{
    client::{Client, Options},
    core::url::Address,
    master::Authority,
};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind; its `exit()` is the exit code.
    pub code: Code,
    /// What to print after `error: `.
    pub message: String,
}

impl Failure {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { code: fault.code, message: fault.message }
    }
}

/// How the master is reached.
#[derive(Clone, Debug, clap::Args)]
struct Reach {
    /// The cluster's authority (PEM) [default: ca.pem in $USHER_CERTS or ~/.config/usher/certs]
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Give up after this long without any progress
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    timeout: Duration,
}

impl Reach {
    /// A client; what `options` say of the timeout does not count.
    fn client(&self, address: Address, options: Options) -> Result<Client, Failure> {
        let authority = Authority::load(self.ca.clone())?;
        Ok(Client::new(address, authority, Options { timeout: self.timeout, ..options })?)
    }
}

impl Reach {
    /// A client for questions only, which says on standard error that it waits for an absent master.
    fn asking(&self, address: Address) -> Result<Client, Failure> {
        Ok(self.client(address, Options::default())?.on_wait(waits))
    }
}

fn waits(fault: &Fault) {
    note(&format!("{fault}; trying on"));
}

/// The master of commands that need no URL.
#[derive(Clone, Debug, clap::Args)]
struct DefaultMaster {
    /// The master when no URL names one
    #[arg(long, env = "USHER_MASTER", value_name = "HOST[:PORT]", default_value = "localhost")]
    master: Address,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30s or 5m"))?;
    let most = Duration::from_secs(24 * 3600);
    if time.is_zero() || time > most {
        Err("a timeout is more than nothing and at most 24h".to_owned())
    } else {
        Ok(time)
    }
}

fn zone(text: &str) -> Result<String, String> {
    id::zone(text).map(str::to_owned).map_err(|error| error.to_string())
}

/// Ends when the user or the system asks the process to.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        () = terminate => {}
        else => std::future::pending().await,
    }
}

/// Writes a finished text to standard output. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Disk, format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error, where nobody may be listening.
fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{text}").is_err() {
        tracing::trace!("standard error is closed");
    }
}

/// Says under which id the master and the nodes know what is asked.
fn tell_request(client: &Client) {
    note(&format!("request {} at {}", client.request_id(), client.address()));
}

fn print_json(document: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{document:#}\n"))
}

/// `1:23:45` or `3:05` of milliseconds; `-` for none.
fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (millis, hours) {
        (0, _) => "-".to_owned(),
        (_, 0) => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

fn state(state: i32) -> &'static str {
    match v1::NodeState::try_from(state) {
        Ok(v1::NodeState::Serving) => "serving",
        Ok(v1::NodeState::Draining) => "draining",
        Ok(v1::NodeState::Stale) => "stale",
        Ok(v1::NodeState::Gone) => "gone",
        _ => "unknown",
    }
}

/// A title as JSON.
fn title_json(title: &v1::Title) -> serde_json::Value {
    serde_json::json!({
        "title": title.title,
        "content_id": title.content_id,
        "size": title.size,
        "media_type": title.media_type,
        "duration_ms": title.duration_ms,
        "bitrate_bps": title.bitrate_bps,
        "streamable": title.streamable,
        "nodes": title.nodes,
        "conflict": title.conflict,
        "live": title.live.as_ref().map(live_json),
    })
}

/// A feed as JSON.
fn live_json(live: &v1::Live) -> serde_json::Value {
    let tracks = live.tracks.iter().map(|track| {
        let kind = match v1::TrackKind::try_from(track.kind) {
            Ok(v1::TrackKind::Video) => "video",
            Ok(v1::TrackKind::Audio) => "audio",
            Ok(v1::TrackKind::Subtitle) => "subtitle",
            _ => "unknown",
        };
        serde_json::json!({ "kind": kind, "codec": track.codec, "language": track.language })
    });
    serde_json::json!({
        "started_ms": live.started_ms,
        "viewers": live.viewers,
        "window_ms": live.window_ms,
        "interrupted": live.interrupted,
        "ingest": live.ingest,
        "tracks": tracks.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (millis, text) in [(0, "-"), (999, "0:00"), (185_000, "3:05"), (5_025_000, "1:23:45")] {
            assert_eq!(duration(millis), text);
        }
        assert_eq!(timeout("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["0s", "25h", "soon", "-1s", "9999999999999y"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
