//! A whole run: the cluster, the plan's faults, clients that replace one another, and what is found at the end. Owns
//! nothing once it has returned: all that was started has ended.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time,
};
use usher_proto::{Bitrate, units};

use crate::{
    client::{self, Job, Life, Task, WrongKind},
    cluster::Cluster,
    core::{
        gap,
        plan::{Fault, Kind, Shape, plan},
        tally::Spread,
    },
    faults::{Faults, Made},
    report::Report,
    settings::{Load, Settings},
};

/// Time after the end of a fault during which a failure is attributed to it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Interruptions that are listed one by one.
const WORST: usize = 8;

/// Faults that are named beside a client's failure.
const LATEST: usize = 6;

/// Failures that are printed in full; many at once look alike.
const FULL: u32 = 4;

/// After a failure a slot waits for so long: a cluster that refuses at once would be asked without end.
const SULK: Duration = Duration::from_secs(1);

/// Between the starts of two clients at the beginning.
const STAGGER: Duration = Duration::from_millis(100);

/// Runs chaos. Tells of each fault and each failure on standard error as it happens.
///
/// # Errors
/// When the cluster cannot be started or a part of the harness fails, and when it is interrupted. Failures of clients
/// are in the report.
pub async fn run(settings: &Settings) -> anyhow::Result<Report> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    tokio::select! {
        report = whole(settings) => report,
        _ = terminate.recv() => bail!("interrupted"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

async fn whole(settings: &Settings) -> anyhow::Result<Report> {
    let starting = Instant::now();
    let cluster = Arc::new(Cluster::start(settings).await?);
    eprintln!("seed {}: the cluster is up after {:.1} s", settings.seed, starting.elapsed().as_secs_f64());
    let began = Instant::now();
    let holders = cluster.library.titles.iter().map(|title| title.holders.clone()).collect();
    let Settings { nodes, time, brisk, .. } = *settings;
    let plan = plan(settings.seed, &Shape { nodes, holders, time, kinds: settings.kinds.clone(), brisk });
    let faults = Faults::new(cluster.clone(), began).await;
    let mut made = JoinSet::new();
    made.spawn(faults.clone().make(plan));
    let (send, mut ended) = mpsc::channel(settings.clients.max(1));
    let mut slots = JoinSet::new();
    for slot in 0..settings.clients {
        slots.spawn(one_after_another(cluster.clone(), settings.clone(), slot, began, send.clone()));
    }
    drop(send);
    let (mut lives, mut failures, mut keep) = (Vec::new(), 0, Keep::new(settings.seed));
    while let Some(life) = ended.recv().await {
        if let Some(wrong) = &life.wrong {
            let full = failures < FULL;
            failures += 1;
            eprint!("{:6.1} s: {}", began.elapsed().as_secs_f64(), failure(settings.seed, &life, wrong, full));
            if full {
                eprint!("{}", faults.log(|log| latest(&log.made, began)));
            }
            keep.folder(&wrong.folder)?;
        }
        lives.push(life);
    }
    while let Some(slot) = slots.join_next().await {
        slot.context("a client's task")??;
    }
    while let Some(all) = made.join_next().await {
        all.context("the faults' task")?;
    }
    cluster.end().await?;
    keep.logs(cluster.path())?;
    let mut report = faults.log(|log| found(&lives, &log.made, began));
    let counted = |kinds: &mut dyn Iterator<Item = Kind>| {
        let mut counts = BTreeMap::new();
        kinds.for_each(|kind| *counts.entry(kind.name()).or_default() += 1);
        counts
    };
    (report.seed, report.minutes) = (settings.seed, settings.time.as_secs_f64() / 60.0);
    faults.log(|log| {
        report.faults = counted(&mut log.made.iter().map(|made| made.fault.kind()));
        report.skipped = counted(&mut log.skipped.iter().copied());
        report.broken.clone_from(&log.broken);
    });
    Ok(report)
}

/// Clients of one slot until time is up. The same seed makes the same choices.
async fn one_after_another(
    cluster: Arc<Cluster>,
    settings: Settings,
    slot: usize,
    began: Instant,
    ended: mpsc::Sender<Life>,
) -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(settings.seed ^ ((slot as u64 + 1) << 32));
    time::sleep(STAGGER * u32::try_from(slot).unwrap_or_default()).await;
    for round in 0.. {
        if began.elapsed() >= settings.time {
            break;
        }
        let job = choose(&mut rng, &settings.load, slot, round);
        let life = Box::pin(client::live(&cluster, job, settings.load.startup)).await?;
        let failed = life.wrong.is_some();
        if ended.send(life).await.is_err() {
            break;
        }
        if failed {
            time::sleep(SULK).await;
        }
    }
    Ok(())
}

fn choose(rng: &mut SmallRng, load: &Load, slot: usize, round: usize) -> Job {
    if slot.is_multiple_of(2) {
        return Job { slot, round, task: Task::Play, title: rng.random_range(0..load.titles) };
    }
    let rate = Bitrate(1000 * rng.random_range(load.fetch_kbits.clone()));
    Job { slot, round, task: Task::Fetch(rate), title: rng.random_range(0..load.titles + load.large) }
}

/// Folders of clients that failed, and the logs beside them.
struct Keep {
    folder: PathBuf,
    used: bool,
}

impl Keep {
    fn new(seed: u64) -> Self {
        Self { folder: std::env::temp_dir().join(format!("usher-chaos-kept-{seed}")), used: false }
    }

    fn folder(&mut self, of: &Path) -> anyhow::Result<()> {
        self.used = true;
        fs::create_dir_all(&self.folder).context("make a folder for what is kept")?;
        let target = self.folder.join(of.file_name().context("a client's folder")?);
        if target.exists() {
            fs::remove_dir_all(&target).context("remove what an earlier run kept")?;
        }
        fs::rename(of, &target).context("keep a client's files")?;
        eprintln!("          its files are kept in {}", target.display());
        Ok(())
    }

    fn logs(&self, dir: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(dir).context("look for logs")?.filter(|_| self.used) {
            let path = entry.context("look for logs")?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                fs::copy(&path, self.folder.join(path.file_name().context("a log")?)).context("keep a log")?;
            }
        }
        Ok(())
    }
}

fn failure(seed: u64, life: &Life, wrong: &client::Wrong, full: bool) -> String {
    let what = if wrong.kind == WrongKind::Bytes { "WRONG BYTES" } else { "CLIENT ERROR" };
    if !full {
        let last = wrong.tail.lines().last().unwrap_or_default();
        return format!("{what} of {}: {}: {}\n", life.title, wrong.what, last.trim_start());
    }
    let tail: Vec<&str> = wrong.tail.lines().rev().filter(|line| !line.contains(r#""progress""#)).take(12).collect();
    let tail: String = tail.iter().rev().map(|line| format!("          | {line}\n")).collect();
    format!("{what} of {}: {}\n          seed {seed}: {}\n{tail}", life.title, wrong.what, wrong.command)
}

fn latest(made: &[Made], began: Instant) -> String {
    let since = |at: Instant| format!("{:.1}", at.saturating_duration_since(began).as_secs_f64());
    let line = |made: &Made| {
        let (node, end) = (made.node.as_deref().unwrap_or("-"), made.ended.map_or_else(|| "now".to_owned(), since));
        format!("          {} {node}: {} s to {end} s\n", made.fault.kind(), since(made.began))
    };
    made.iter().rev().take(LATEST).map(line).collect()
}

/// The effect of the faults, by the clients' times.
fn found(lives: &[Life], all: &[Made], began: Instant) -> Report {
    let (mut plays, mut fetches) = (BTreeMap::<&str, Vec<Duration>>::new(), BTreeMap::<&str, Vec<Duration>>::new());
    let (mut spared, mut worst) = (Vec::new(), Vec::new());
    for made in all {
        let (kind, from) = (made.fault.kind(), made.began);
        let to = made.ended.unwrap_or(from) + AFTERMATH;
        for life in lives {
            let Some(gap) = gap::longest(&life.arrivals, from, to, life.spacing) else { continue };
            let is_play = life.job.task == Task::Play;
            if hits(made, life, to) {
                let gaps = if is_play { &mut plays } else { &mut fetches };
                gaps.entry(kind.name()).or_default().push(gap);
                worst.extend(is_play.then(|| (gap, told(made, life, gap, to, began))));
            } else if is_play && all.iter().all(|other| !touches(other, life, from, to)) {
                spared.push(gap);
            }
        }
    }
    worst.sort_by_key(|(gap, _)| std::cmp::Reverse(*gap));
    let of = |gaps: BTreeMap<&'static str, Vec<Duration>>| {
        gaps.into_iter().map(|(kind, gaps)| (kind, Spread::of(gaps))).collect::<BTreeMap<_, _>>()
    };
    let wrong = |kind: WrongKind| {
        lives.iter().filter(|life| life.wrong.as_ref().is_some_and(|wrong| wrong.kind == kind)).count() as u64
    };
    let still: Duration = lives.iter().map(|life| life.still).sum();
    Report {
        outputs: lives.len() as u64,
        plays: lives.iter().filter(|life| life.job.task == Task::Play).count() as u64,
        wrong_bytes: wrong(WrongKind::Bytes),
        client_errors: wrong(WrongKind::End),
        stalls: lives.iter().map(|life| u64::from(life.stalls)).sum(),
        still_ms: units::millis(still),
        gap_ms: of(plays),
        fetch_gap_ms: of(fetches),
        spared_gap_ms: Spread::of(spared),
        worst: worst.into_iter().take(WORST).map(|(_, line)| line).collect(),
        ..Report::default()
    }
}

/// Whether a fault hit a client: its node was the one, or it had to move, or all were hit.
fn hits(made: &Made, life: &Life, to: Instant) -> bool {
    let served = made.node.as_deref().is_some_and(|node| life.was_served_by(node, made.began));
    match made.fault.kind() {
        Kind::Master => true,
        Kind::Rebalance => life.changed(made.began, to),
        Kind::Corrupt => served && matches!(made.fault, Fault::Corrupt { title, .. } if title == life.job.title),
        _ => served,
    }
}

/// Whether a fault may have had any part in what a client saw in this time.
fn touches(made: &Made, life: &Life, from: Instant, to: Instant) -> bool {
    let until = made.ended.map_or(to, |ended| ended + AFTERMATH);
    let overlaps = made.began <= to && from <= until;
    overlaps && made.node.as_deref().is_none_or(|node| life.met(node, made.began.max(from), until.min(to)))
}

fn told(made: &Made, life: &Life, gap: Duration, to: Instant, began: Instant) -> String {
    let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
    let then = life.nodes.iter().filter(|(at, _)| (made.began..=to + gap).contains(at));
    let then: Vec<String> = then.map(|(at, node)| format!("{:.1} s {node}", since(*at))).collect();
    let (kind, node) = (made.fault.kind(), made.node.as_deref().unwrap_or("-"));
    let from = since(made.began);
    format!("{} ms: {kind} {node} at {from:.1} s, {}; then: {}", gap.as_millis(), life.title, then.join(", "))
}
