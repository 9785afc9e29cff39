//! The time to the first byte of a title from a distant cluster, in round trips. Relays add the delay; the programs' own time
//! is measured without the delay and subtracted.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use usher_client::{Address, Authority, Chunk, Client, FetchEvent, Options, Sink, TransferInfo};
use usher_proto::{Code, ContentId, Fault, Title};
use usher_relay::{Direction, Settings, UdpRelay};

use crate::{
    cluster::usher,
    far::{Far, RatioRow, write_json},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Two runs of each case
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Delay of one direction.
const DELAY: Duration = Duration::from_millis(100);

/// Runs of each case, with the delay and without. The shortest counts: a busy machine only ever adds to it.
const RUNS: usize = 5;

/// The same, for a quick look.
const QUICK_RUNS: usize = 2;

/// Bytes of a film: more than the first windows carry.
const FILM: u32 = 4_000_000;

/// Milestones until a title's first byte, as times since the start.
#[derive(Clone, Copy, Debug)]
struct Marks {
    /// The first datagram to the node; what came before was the master's.
    dialled: Option<Duration>,
    /// The node's set-up information is there.
    seated: Duration,
    /// So is the first verified byte.
    first: Duration,
}

/// A kind of start.
struct StartCase {
    name: &'static str,
    goal: f64,
    /// Purpose of the round trips to the node, with and without its dial.
    road: &'static str,
    runs: Vec<Marks>,
    /// The same without any delay.
    near: Vec<Marks>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = threads.context("start a runtime")?;
    let runs = if args.quick { QUICK_RUNS } else { RUNS };
    let mut far = Far::start()?;
    let (cold, warm) = runtime.block_on(measure(&mut far, runs))?;
    let rtt = DELAY * 2;
    println!("first byte of a title at a round trip of {} ms, the shortest of {runs}", rtt.as_millis());
    let rows: Vec<RatioRow> = [cold, warm].iter().map(|case| case.print(rtt)).collect();
    write_json(args.json.as_deref(), &rows)
}

async fn measure(far: &mut Far, runs: usize) -> anyhow::Result<(StartCase, StartCase)> {
    let cold_road = "3 round trips are due there: TCP, TLS, the call; 2 here: handshake, open";
    let warm_road = "2 round trips are due: the call, open";
    let case = |name, goal, road| StartCase { name, goal, road, runs: Vec::new(), near: Vec::new() };
    let mut cold = case("cold: a new process", 5.0, cold_road);
    let mut warm = case("the next title of a client", 2.0, warm_road);
    let relay = UdpRelay::start(Settings::default(), Settings::default());
    far.node("node-1", &relay, &[("one.mp4", FILM), ("two.mp4", FILM)], &[]).await?;
    for (delay, is_far) in [(Duration::ZERO, false), (DELAY, true)] {
        let road = far.road(delay).await?;
        let settings = Settings { delay, ..Settings::default() };
        for _ in 0..runs {
            let anew = || [Direction::Up, Direction::Down].map(|direction| relay.set(direction, settings));
            anew();
            let marks = play(&far.ca(), &format!("usher://{}/one.mp4", road.address()), &relay)?;
            if is_far { &mut cold.runs } else { &mut cold.near }.push(marks);
            anew();
            let marks = second(&far.ca(), &road.address().to_string()).await?;
            if is_far { &mut warm.runs } else { &mut warm.near }.push(marks);
        }
    }
    Ok((cold, warm))
}

/// Starts a real `usher play` and ends it after its first byte.
fn play(ca: &Path, url: &str, relay: &UdpRelay) -> anyhow::Result<Marks> {
    let mut command = Command::new(usher()?);
    command.args(["play", url, "--player", "-"]).env("USHER_CA", ca);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start usher")?;
    let (out, err) = (child.stdout.take().context("piped")?, child.stderr.take().context("piped")?);
    let told = std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(err).read_line(&mut line).map(|_| (line, began.elapsed()))
    });
    let mut out = out;
    let read = out.read(&mut [0; 1]).context("read what is played")?;
    let first = began.elapsed();
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
    let (line, seated) = told.join().ok().context("the thread that reads ended")?.context("read what is said")?;
    ensure!(read == 1, "usher play {url}: {line}");
    let dialled = relay.counts(Direction::Up).first.map(|at| at.saturating_duration_since(began));
    Ok(Marks { dialled, seated, first })
}

/// Fetches a title, then another with the same client up to its first byte.
async fn second(ca: &Path, address: &str) -> anyhow::Result<Marks> {
    let authority = Authority::load(Some(ca.to_owned())).map_err(anyhow::Error::msg)?;
    let address: Address = address.parse().context("the master's address")?;
    let client = Client::new(address, authority, Options::default())?;
    let title = |name: &str| Title::parse(name).context("a title");
    client.fetch_to(&title("one.mp4")?, &mut FirstByte { until_first: false, first: None }, &|_| ()).await?;
    let (began, seated) = (Instant::now(), Mutex::new(None));
    let observer = |progress: &FetchEvent| {
        if let (FetchEvent::Seated { .. }, Ok(mut seated)) = (progress, seated.lock()) {
            seated.get_or_insert_with(|| began.elapsed());
        }
    };
    let mut eye = FirstByte { until_first: true, first: None };
    let ended = client.fetch_to(&title("two.mp4")?, &mut eye, &observer).await;
    let first = eye.first.with_context(|| format!("a first byte: {ended:?}"))?.saturating_duration_since(began);
    let seated = seated.lock().ok().and_then(|seated| *seated).context("a set-up")?;
    client.close().await;
    Ok(Marks { dialled: None, seated, first })
}

/// Records when the first bytes arrive; may stop the transfer then.
struct FirstByte {
    until_first: bool,
    first: Option<Instant>,
}

impl Sink for FirstByte {
    async fn begin(&mut self, _about: &TransferInfo) -> Result<u64, Fault> {
        Ok(0)
    }

    async fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> Result<T, Fault> {
        let (pieces, made) = make();
        if !pieces.is_empty() {
            self.first.get_or_insert_with(Instant::now);
        }
        if self.first.is_some() && self.until_first {
            return Err(Fault::new(Code::Cancelled, "seen enough"));
        }
        Ok(made)
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl StartCase {
    /// Prints the case; its row.
    fn print(&self, rtt: Duration) -> RatioRow {
        let seconds = |runs: &[Marks], of: &dyn Fn(&Marks) -> Duration| -> Vec<f64> {
            runs.iter().map(|marks| of(marks).as_secs_f64()).collect()
        };
        let least = |values: &[f64]| values.iter().copied().fold(f64::MAX, f64::min);
        let trips = |of: &dyn Fn(&Marks) -> Duration| {
            let near = least(&seconds(&self.near, of));
            let all: Vec<f64> = seconds(&self.runs, of).iter().map(|far| (far - near) / rtt.as_secs_f64()).collect();
            // A negative value is noise.
            (least(&all).max(0.0), all)
        };
        let (whole, all) = trips(&|marks| marks.first);
        let (raw, own) =
            (least(&seconds(&self.runs, &|marks| marks.first)), least(&seconds(&self.near, &|marks| marks.first)));
        println!(
            "{}: {:.0} ms, of which {:.0} ms without any delay: time / RTT {:.1}, round trips {:.0} (goal: {:.0})",
            self.name,
            raw * 1e3,
            own * 1e3,
            raw / rtt.as_secs_f64(),
            whole,
            self.goal
        );
        if self.runs.iter().all(|marks| marks.dialled.is_some()) {
            let (master, _) = trips(&|marks| marks.dialled.unwrap_or_default());
            let (node, _) = trips(&|marks| marks.seated.saturating_sub(marks.dialled.unwrap_or_default()));
            println!("  master {master:.1}, node up to its set-up {node:.1}: {}", self.road);
        } else {
            let (both, _) = trips(&|marks| marks.seated);
            println!("  master and node up to its set-up {both:.1}: {}", self.road);
        }
        let (data, _) = trips(&|marks| marks.first.saturating_sub(marks.seated));
        println!("  from the set-up to the first verified group of 64 KiB {data:.1}");
        let most = all.iter().copied().fold(f64::MIN, f64::max);
        RatioRow {
            case: self.name.to_owned(),
            metric: "round trips to the first byte",
            against: "goal",
            ratio: whole / self.goal,
            min: least(&all) / self.goal,
            max: most / self.goal,
            usher: whole,
            peer: self.goal,
        }
    }
}
