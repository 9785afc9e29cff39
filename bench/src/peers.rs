//! Usher and its peers: the real binaries on one machine, alternately within one run, and the ratios between them. Owns the
//! list of cases, their sizes and their order; each case has its own file.

mod bulk;
mod handshakes;
mod idle;
mod sendme;
mod small;
mod stalls;
pub(crate) mod stock;
pub(crate) mod table;
pub(crate) mod testbed;
pub(crate) mod tickets;
pub(crate) mod viewer;
mod web;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};

use table::Results;
use testbed::{Sizes, Testbed};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A smoke run: once, with small sizes; its figures mean little
    #[arg(long)]
    quick: bool,
    /// Only these cases; may be given several times
    #[arg(long, value_enum, value_name = "NAME", num_args = 1..)]
    case: Vec<Case>,
    /// Repetitions [default: 5, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    reps: Option<u16>,
    /// The sendme program, if it is not on PATH
    #[arg(long, value_name = "FILE")]
    sendme: Option<PathBuf>,
    /// Where to write the rows as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A benchmark case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// One title of 1 GiB on one connection, thrown away
    One,
    /// The same into a file; stock quinn throws away
    File,
    /// 64 titles of 16 MiB on one connection; Usher and curl write files, stock quinn throws away
    Titles,
    /// 64 clients at once, each with a title of 16 MiB
    Connections,
    /// The same from a node that sends by one thread, beside one with a thread on each core
    Threads,
    /// Titles of 64 KiB, one after the other on a warm connection
    Small,
    /// New connections, one after the other
    Handshakes,
    /// Resolve calls beside a bare gRPC server that answers with as many bytes
    Tickets,
    /// 1,000 viewers of 2 Mbit/s each on a node that was just started
    Idle,
    /// Viewers to 95 % of a node's capacity, and 50 greedy fetches beside them
    Stalls,
    /// One title of 1 GiB, verified and in a file, beside sendme
    Verified,
}

impl Case {
    const ALL: [Self; 11] = [
        Self::One,
        Self::File,
        Self::Titles,
        Self::Connections,
        Self::Threads,
        Self::Small,
        Self::Handshakes,
        Self::Tickets,
        Self::Idle,
        Self::Stalls,
        Self::Verified,
    ];

    /// Every contender once.
    fn run(self, testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
        match self {
            Self::One => bulk::one(testbed, rep, results),
            Self::File => bulk::file(testbed, rep, results),
            Self::Titles => bulk::titles(testbed, rep, results),
            Self::Connections => bulk::connections(testbed, rep, results),
            Self::Threads => bulk::threads(testbed, rep, results),
            Self::Small => small::run(testbed, rep, results),
            Self::Handshakes => handshakes::run(testbed, rep, results),
            Self::Tickets => tickets::run(testbed, rep, results),
            Self::Idle => idle::run(testbed, rep, results),
            Self::Stalls => stalls::run(testbed, rep, results),
            Self::Verified => sendme::run(testbed, rep, results),
        }
    }
}

const MIB: u64 = 1024 * 1024;

/// Large enough that starts and ends weigh little, small enough for minutes.
const FULL: Sizes = Sizes {
    one: 1024 * MIB,
    titles: 64,
    title: 16 * MIB,
    smalls: 256,
    requests: 2000,
    handshakes: 1000,
    calls: 20_000,
    viewers: 1000,
    settle: Duration::from_secs(3),
    window: Duration::from_secs(15),
    full_node: Duration::from_secs(30),
};

/// Large enough that every part is used, small enough for a minute in all.
const QUICK: Sizes = Sizes {
    one: 64 * MIB,
    titles: 16,
    title: 2 * MIB,
    smalls: 32,
    requests: 200,
    handshakes: 100,
    calls: 2000,
    viewers: 50,
    settle: Duration::from_secs(1),
    window: Duration::from_secs(3),
    full_node: Duration::from_secs(4),
};

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (sizes, reps) = if args.quick { (QUICK, 1) } else { (FULL, 5) };
    let reps = args.reps.map_or(reps, usize::from);
    let testbed = Testbed::set(sizes, args.sendme.clone())?;
    let cases = if args.case.is_empty() { &Case::ALL[..] } else { &args.case[..] };
    let mut results = Results::default();
    let mut failed = Vec::new();
    for case in cases {
        let outcome = (0..reps).try_for_each(|rep| {
            eprintln!("{case:?}: {} of {reps}", rep + 1);
            case.run(&testbed, rep, &mut results)
        });
        // The other cases are worth their time all the same.
        if let Err(error) = outcome {
            eprintln!("FAILED: {case:?}: {error:#}");
            failed.push(format!("{case:?}"));
        }
    }
    let rows = results.rows();
    print!("{}", table::text(&rows));
    if let Some(path) = &args.json {
        fs::write(path, format!("{}\n", table::json(&rows))).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(failed.is_empty(), "cases that failed: {}", failed.join(", "));
    Ok(())
}
