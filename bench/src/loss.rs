//! Goodput of a real fetch from a real node over links that queue, delay and lose, with each congestion controller, and
//! of two flows that share one link. Each pair of figures is measured at the same time, over two equal links.

mod flow;
mod report;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use usher_proto::Bitrate;
use usher_relay::{Direction, Settings, UdpRelay};

use self::report::{Alone, Controller, Pair};
use crate::far::{Far, write_json};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One cell, for a few seconds
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Seed of the random loss
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Bits per second.
const RATES: [u64; 2] = [20_000_000, 100_000_000];

/// Milliseconds.
const RTTS: [u64; 3] = [10, 50, 150];

/// Of a million datagrams, in each direction.
const LOSSES: [u32; 4] = [0, 1_000, 10_000, 50_000];

/// Of the links that two flows share, in milliseconds.
const SHARED_RTT: u64 = 50;

/// The pairs that share a link.
const PAIRS: [(Controller, Controller); 3] =
    [(Controller::Cubic, Controller::Cubic), (Controller::Bbr, Controller::Bbr), (Controller::Bbr, Controller::Cubic)];

/// The shortest queue, in bytes.
const MIN_QUEUE: u64 = 64_000;

/// Bytes of a film: 19 s at the highest rate, more than any flow is watched.
const FILM: u32 = 240_000_000;

/// How long a flow is watched, after it has had time to leave its slow start.
#[derive(Clone, Copy)]
struct Span {
    before: Duration,
    watched: Duration,
}

const ALONE: Span = Span { before: Duration::from_secs(2), watched: Duration::from_secs(8) };

/// Two flows take longer to find their shares.
const TOGETHER: Span = Span { before: Duration::from_secs(4), watched: Duration::from_secs(12) };

const QUICK: Span = Span { before: Duration::from_secs(1), watched: Duration::from_secs(3) };

/// A kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    rate: Bitrate,
    rtt: Duration,
    loss_ppm: u32,
}

impl Link {
    fn new(rate: u64, rtt: u64, loss_ppm: u32) -> Self {
        Self { rate: Bitrate(rate), rtt: Duration::from_millis(rtt), loss_ppm }
    }

    /// Restarts a relay as this link. Each direction loses datagrams of its own.
    fn lay(self, relay: &UdpRelay, seed: u64) {
        let Self { rate, rtt, loss_ppm } = self;
        let queue = rate.bytes_in(rtt).max(MIN_QUEUE);
        let settings = Settings { delay: rtt / 2, rate: Some(rate), queue, loss_ppm, seed: 2 * seed };
        relay.set(Direction::Down, settings);
        relay.set(Direction::Up, Settings { seed: 2 * seed + 1, ..settings });
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = threads.context("start a runtime")?;
    let mut far = Far::start()?;
    let began = Instant::now();
    let (alone, pairs) = runtime.block_on(async {
        let alone = alone(&mut far, args).await?;
        let pairs = if args.quick { Vec::new() } else { together(&mut far, args.seed).await? };
        anyhow::Ok((alone, pairs))
    })?;
    println!("{}", report::table(&alone, &pairs));
    if let Some(line) = report::recommendation(&alone, &pairs) {
        println!("{line}");
    }
    println!("seed {}, {:.0} s", args.seed, began.elapsed().as_secs_f64());
    write_json(args.json.as_deref(), &report::rows(&alone, &pairs))
}

/// One flow a link: every kind of link, with both controllers.
async fn alone(far: &mut Far, args: &Args) -> anyhow::Result<Vec<Alone>> {
    let mut relays = Vec::new();
    for controller in Controller::BOTH {
        let relay = UdpRelay::start(Settings::default(), Settings::default());
        let flags = ["--congestion", controller.name()];
        far.node(controller.name(), &relay, &[(&title(controller.name()), FILM)], &flags).await?;
        relays.push((controller, relay));
    }
    let all = || RATES.into_iter().flat_map(|rate| RTTS.into_iter().map(move |rtt| (rate, rtt)));
    let all = all().flat_map(|(rate, rtt)| LOSSES.into_iter().map(move |loss| Link::new(rate, rtt, loss)));
    let (links, span) =
        if args.quick { (vec![Link::new(20_000_000, 50, 10_000)], QUICK) } else { (all.collect(), ALONE) };
    let mut cells = Vec::new();
    for link in links {
        relays.iter().for_each(|(_, relay)| link.lay(relay, args.seed));
        let fetch = |controller: Controller| flow::run(far, title(controller.name()), span);
        let (cubic, bbr) = tokio::try_join!(fetch(Controller::Cubic), fetch(Controller::Bbr))?;
        let full = |controller| {
            let relay = relays.iter().find(|(of, _)| *of == controller).map(|(_, relay)| relay.counts(Direction::Down));
            relay.map_or(0.0, |counts| counts.dropped as f64 / counts.datagrams.max(1) as f64)
        };
        let dropped = [full(Controller::Cubic), full(Controller::Bbr)];
        let cell = Alone { link, goodput: [cubic, bbr], dropped };
        eprintln!("{}", cell.line());
        cells.push(cell);
    }
    Ok(cells)
}

/// Two flows on one link.
async fn together(far: &mut Far, seed: u64) -> anyhow::Result<Vec<Pair>> {
    let relay = UdpRelay::start(Settings::default(), Settings::default());
    for controller in Controller::BOTH {
        for number in 1..=2 {
            let node = format!("{}-{number}", controller.name());
            let flags = ["--congestion", controller.name()];
            far.node(&node, &relay, &[(&title(&node), FILM)], &flags).await?;
        }
    }
    let mut pairs = Vec::new();
    for rate in RATES {
        for (first, second) in PAIRS {
            let link = Link::new(rate, SHARED_RTT, 0);
            link.lay(&relay, seed);
            let (one, two) = tokio::try_join!(
                flow::run(far, title(&format!("{}-1", first.name())), TOGETHER),
                flow::run(far, title(&format!("{}-2", second.name())), TOGETHER),
            )?;
            let pair = Pair { link, controllers: [first, second], goodput: [one, two] };
            eprintln!("{}", pair.line());
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

fn title(node: &str) -> String {
    format!("{node}.mp4")
}
