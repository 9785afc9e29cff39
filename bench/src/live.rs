//! Live feeds: cost, latency, and the effect of slow viewers and lost nodes on other viewers. Owns the list of cases and their
//! sizes; each case has its own file.

mod clip;
mod cluster;
mod fanout;
mod goals;
mod handoff;
mod join;
mod lost;
mod moq;
mod slow;
mod viewer;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};

use crate::peers::table::{self, Results};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A smoke run: once, with few viewers, and without moq-relay; its figures mean little
    #[arg(long)]
    quick: bool,
    /// Only these cases; may be given several times
    #[arg(long, value_enum, value_name = "NAME", num_args = 1..)]
    case: Vec<LiveCase>,
    /// Repetitions of `fanout` and `lost` [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    reps: Option<u16>,
    /// Viewers of `fanout` [default: 100, with --quick 10]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    viewers: Option<u16>,
    /// The folder of moq-relay and moq, if they are not on PATH
    #[arg(long, value_name = "DIR")]
    moq: Option<PathBuf>,
    /// Write the rows as JSON to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A benchmark case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LiveCase {
    /// The cost of a relayed feed for the process that relays it, beside moq-relay
    Fanout,
    /// From the writing of a picture to a publisher until it comes out of a player
    Handoff,
    /// From the start of a player to its first byte
    Join,
    /// Many viewers of which one takes a tenth of the rate
    Slow,
    /// A node is killed under its viewers
    Lost,
}

impl LiveCase {
    const ALL: [Self; 5] = [Self::Fanout, Self::Handoff, Self::Join, Self::Slow, Self::Lost];
}

/// Sizes of the cases.
struct Timing {
    /// Viewers of `fanout`, how long they settle and how long they are watched.
    viewers: usize,
    settle: Duration,
    window: Duration,
    /// The clip of `fanout`: longer than its viewers come in, settle and watch.
    fanout: Duration,
    /// Time for which pictures are timed.
    handoff: Duration,
    /// Late joiners.
    joins: usize,
    /// Viewers of `slow` besides the slow one, and how long they watch.
    crowd: usize,
    crowded: Duration,
    /// Viewers of `lost`.
    orphans: usize,
}

const FULL: Timing = Timing {
    viewers: 100,
    settle: Duration::from_secs(4),
    window: Duration::from_secs(15),
    fanout: Duration::from_secs(60),
    handoff: Duration::from_secs(20),
    joins: 20,
    crowd: 199,
    crowded: Duration::from_secs(40),
    orphans: 50,
};

const QUICK: Timing = Timing {
    viewers: 10,
    settle: Duration::from_secs(1),
    window: Duration::from_secs(3),
    fanout: Duration::from_secs(30),
    handoff: Duration::from_secs(4),
    joins: 3,
    crowd: 19,
    crowded: Duration::from_secs(8),
    orphans: 8,
};

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (timing, reps) = if args.quick { (QUICK, 1) } else { (FULL, 3) };
    let reps = args.reps.map_or(reps, usize::from);
    let timing = Timing { viewers: args.viewers.map_or(timing.viewers, usize::from), ..timing };
    let dir = tempfile::tempdir().context("make a temporary folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    let cases = if args.case.is_empty() { &LiveCase::ALL[..] } else { &args.case[..] };
    let (mut results, mut failed) = (Results::default(), Vec::new());
    for case in cases {
        let results = &mut results;
        let outcome = runtime.block_on(async {
            match case {
                LiveCase::Fanout => {
                    let peer = (!args.quick || args.moq.is_some()).then_some(args.moq.as_deref());
                    fanout::run(&timing, peer, dir.path(), reps, results).await
                }
                LiveCase::Handoff => handoff::run(&timing, dir.path(), results).await,
                LiveCase::Join => join::run(&timing, dir.path(), results).await,
                LiveCase::Slow => slow::run(&timing, dir.path(), results).await,
                LiveCase::Lost => lost::run(&timing, dir.path(), reps, results).await,
            }
        });
        // The other cases still run.
        if let Err(error) = outcome {
            eprintln!("FAILED: {case:?}: {error:#}");
            failed.push(format!("{case:?}"));
        }
    }
    let rows = results.rows();
    print!("{}", table::text(&rows));
    print!("{}", goals::text(&rows));
    if let Some(path) = &args.json {
        fs::write(path, format!("{}\n", table::json(&rows))).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(failed.is_empty(), "cases that failed: {}", failed.join(", "));
    Ok(())
}

/// The value below which this part of them lies.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
}
