//! A row of the table: an attack, and the figures of honest clients with and without it.

use std::{fmt, fs, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use usher_hostile::honest::Outcome;

use crate::cluster::usher;

/// An attack to measure.
#[derive(Clone, Copy)]
pub(crate) struct HostileRow {
    pub(crate) name: &'static str,
    /// Text of what is to be reached.
    pub(crate) goal: &'static str,
    /// Runs it, with so many honest clients.
    pub(crate) run: fn(usize) -> anyhow::Result<ClientFigures>,
}

/// ClientFigures of honest clients.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ClientFigures {
    /// Clients that should have been served.
    pub(crate) due: usize,
    /// Clients that were.
    pub(crate) served: usize,
    /// Milliseconds of the median and the slowest hundredth of them, and of the slowest hundredth without an attack; zero
    /// where time is not the matter.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) quiet_p99_ms: f64,
}

impl ClientFigures {
    /// ClientFigures of the same calls without and with an attack.
    pub(crate) fn of_calls(quiet: &Outcome, attacked: &Outcome) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            due: attacked.asked,
            served: attacked.answered(),
            p50_ms: ms(attacked.quantile(0.5)),
            p99_ms: ms(attacked.quantile(0.99)),
            quiet_p99_ms: ms(quiet.quantile(0.99)),
        }
    }
}

impl fmt::Display for ClientFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { due, served, p50_ms, p99_ms, quiet_p99_ms } = self;
        let (share, ratio) = (*served as f64 * 100.0 / (*due).max(1) as f64, p99_ms / quiet_p99_ms.max(1e-3));
        write!(f, "{share:>5.1} % of {due:<5} {p50_ms:>7.1} ms {p99_ms:>7.1} ms {quiet_p99_ms:>7.1} ms {ratio:>6.1}")
    }
}

/// A title that [`cluster`] has.
pub(crate) const TITLE: &str = "B.mp4";

/// A master with these flags, and a fast node with one small title.
pub(crate) fn cluster(flags: &[&str]) -> anyhow::Result<usher_kit::Cluster> {
    let usual = ["--metrics", "off", "--cluster-access", "open", "--log", "warn,usher_master::app=info"];
    let mut cluster = usher_kit::Cluster::start(&usher()?, &[&usual[..], flags].concat())?;
    cluster.master.ignore_log();
    let film = cluster.path().join("film");
    fs::write(&film, include_bytes!("../../../media/samples/B.mp4")).context("write a title")?;
    cluster.add("node-1", TITLE, &film)?;
    cluster.spawn_node("node-1", &["--capacity", "100gbit", "--replica-quota", "0"])?.ignore_log();
    cluster.wait_for_copies(1)?;
    cluster.wait_for_nodes(1)?;
    Ok(cluster)
}
