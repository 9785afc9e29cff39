//! The command line of `usher-chaos`: a cluster under faults for minutes, and clients whose output is compared with its
//! source. The tests use the same harness.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use usher_chaos::{Kind, Load, Settings};

use crate::cluster::usher;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Duration of the faults, in minutes
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Seed of the plan of faults and of the clients' choices [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the report as JSON to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Clients at any time; every second one plays, the others fetch
    #[arg(long, default_value_t = 40)]
    clients: usize,
    /// Nodes, three at least
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Only faults of these kinds: crash, freeze, drain, rolling, rebalance, blackhole, master, rebind, corrupt
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Write the clients' debug logs to this folder
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// The program under test [default: `usher` beside this program]
    #[arg(long)]
    usher: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let settings = Settings {
        usher: args.usher.clone().map_or_else(usher, Ok)?,
        seed: args.seed.unwrap_or_else(rand::random),
        time: Duration::try_from_secs_f64(args.minutes * 60.0).context("a number of minutes")?,
        clients: args.clients,
        nodes: args.nodes,
        kinds: if args.only.is_empty() { Kind::ALL.to_vec() } else { args.only.clone() },
        brisk: false,
        logs: args.logs.clone(),
        load: Load::release(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.context("start a runtime")?.block_on(Box::pin(usher_chaos::run(&settings)))?;
    print!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&report).context("write a report")?;
        fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(
        report.is_good(),
        "{} outputs with wrong bytes, {} client errors; repeat with --seed {}",
        report.wrong_bytes,
        report.client_errors,
        report.seed
    );
    Ok(())
}
