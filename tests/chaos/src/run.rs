//! One run: the cluster, the plan's faults, clients one after another in each slot, and the evaluation at the end. All
//! processes and tasks of a run have ended when it returns.

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
    client::{self, ClientRun, ClientSpec, FailureKind, Task},
    cluster::Cluster,
    core::{
        gap,
        plan::{Fault, Kind, Shape, plan},
        tally::Spread,
    },
    faults::{FaultInjector, InjectedFault},
    report::Report,
    settings::{Load, Settings},
};

/// Time after the end of a fault during which a failure is attributed to it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Number of the longest interruptions in the report.
const WORST: usize = 8;

/// Number of recent faults that are printed with a client's failure.
const RECENT: usize = 6;

/// Number of failures that are printed in full; many at once look alike.
const FULL: u32 = 4;

/// Pause of a slot after a failed client, so that a cluster that refuses at once is not asked without end.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Time between the starts of two slots.
const STAGGER: Duration = Duration::from_millis(100);

/// Runs chaos. Prints each fault and each failure to standard error as it happens.
///
/// # Errors
/// The cluster cannot be started, a part of the harness fails, or a signal interrupts the run. Failures of clients are in
/// the report.
pub async fn run(settings: &Settings) -> anyhow::Result<Report> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    tokio::select! {
        report = run_uninterrupted(settings) => report,
        _ = terminate.recv() => bail!("interrupted"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

async fn run_uninterrupted(settings: &Settings) -> anyhow::Result<Report> {
    let starting = Instant::now();
    let cluster = Arc::new(Cluster::start(settings).await?);
    eprintln!("seed {}: the cluster is up after {:.1} s", settings.seed, starting.elapsed().as_secs_f64());
    let began = Instant::now();
    let holders = cluster.library.titles.iter().map(|title| title.holders.clone()).collect();
    let Settings { nodes, time, brisk, .. } = *settings;
    let plan = plan(settings.seed, &Shape { nodes, holders, time, kinds: settings.kinds.clone(), brisk });
    let faults = FaultInjector::new(cluster.clone(), began).await;
    let mut injection = JoinSet::new();
    injection.spawn(faults.clone().run_plan(plan));
    let (send, mut ended) = mpsc::channel(settings.clients.max(1));
    let mut slots = JoinSet::new();
    for slot in 0..settings.clients {
        slots.spawn(run_slot(cluster.clone(), settings.clone(), slot, began, send.clone()));
    }
    drop(send);
    let (mut runs, mut failures, mut kept) = (Vec::new(), 0, KeptFiles::new(settings.seed));
    while let Some(run) = ended.recv().await {
        if let Some(failure) = &run.failure {
            let full = failures < FULL;
            failures += 1;
            eprint!("{:6.1} s: {}", began.elapsed().as_secs_f64(), failure_text(settings.seed, &run, failure, full));
            if full {
                eprint!("{}", faults.log(|log| recent_faults(&log.injected, began)));
            }
            kept.keep_folder(&failure.folder)?;
        }
        runs.push(run);
    }
    while let Some(slot) = slots.join_next().await {
        slot.context("a client's task")??;
    }
    while let Some(all) = injection.join_next().await {
        all.context("the faults' task")?;
    }
    cluster.end().await?;
    kept.keep_logs(cluster.path())?;
    let mut report = faults.log(|log| evaluate(&runs, &log.injected, began));
    let counted = |kinds: &mut dyn Iterator<Item = Kind>| {
        let mut counts = BTreeMap::new();
        kinds.for_each(|kind| *counts.entry(kind.name()).or_default() += 1);
        counts
    };
    (report.seed, report.minutes) = (settings.seed, settings.time.as_secs_f64() / 60.0);
    faults.log(|log| {
        report.faults = counted(&mut log.injected.iter().map(|injected| injected.fault.kind()));
        report.skipped = counted(&mut log.skipped.iter().copied());
        report.broken.clone_from(&log.broken);
    });
    Ok(report)
}

/// Runs clients one after another until the time is up. The same seed makes the same choices.
async fn run_slot(
    cluster: Arc<Cluster>,
    settings: Settings,
    slot: usize,
    began: Instant,
    ended: mpsc::Sender<ClientRun>,
) -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(settings.seed ^ ((slot as u64 + 1) << 32));
    time::sleep(STAGGER * u32::try_from(slot).unwrap_or_default()).await;
    for round in 0.. {
        if began.elapsed() >= settings.time {
            break;
        }
        let spec = choose(&mut rng, &settings.load, slot, round);
        let run = Box::pin(client::run_client(&cluster, spec, settings.load.startup)).await?;
        let failed = run.failure.is_some();
        if ended.send(run).await.is_err() {
            break;
        }
        if failed {
            time::sleep(RETRY_PAUSE).await;
        }
    }
    Ok(())
}

fn choose(rng: &mut SmallRng, load: &Load, slot: usize, round: usize) -> ClientSpec {
    if slot.is_multiple_of(2) {
        return ClientSpec { slot, round, task: Task::Play, title: rng.random_range(0..load.titles) };
    }
    let rate = Bitrate(1000 * rng.random_range(load.fetch_kbits.clone()));
    ClientSpec { slot, round, task: Task::Fetch(rate), title: rng.random_range(0..load.titles + load.large) }
}

/// The folder that keeps the files of failed clients, and the servers' logs if a client failed.
struct KeptFiles {
    folder: PathBuf,
    used: bool,
}

impl KeptFiles {
    fn new(seed: u64) -> Self {
        Self { folder: std::env::temp_dir().join(format!("usher-chaos-kept-{seed}")), used: false }
    }

    fn keep_folder(&mut self, of: &Path) -> anyhow::Result<()> {
        self.used = true;
        fs::create_dir_all(&self.folder).context("make a folder for kept files")?;
        let target = self.folder.join(of.file_name().context("a client's folder")?);
        if target.exists() {
            fs::remove_dir_all(&target).context("remove the files that an earlier run kept")?;
        }
        fs::rename(of, &target).context("keep a client's files")?;
        eprintln!("          its files are kept in {}", target.display());
        Ok(())
    }

    fn keep_logs(&self, dir: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(dir).context("look for logs")?.filter(|_| self.used) {
            let path = entry.context("look for logs")?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                fs::copy(&path, self.folder.join(path.file_name().context("a log")?)).context("keep a log")?;
            }
        }
        Ok(())
    }
}

fn failure_text(seed: u64, run: &ClientRun, failure: &client::Failure, full: bool) -> String {
    let what = if failure.kind == FailureKind::Bytes { "WRONG BYTES" } else { "CLIENT ERROR" };
    if !full {
        let last = failure.tail.lines().last().unwrap_or_default();
        return format!("{what} of {}: {}: {}\n", run.title, failure.what, last.trim_start());
    }
    let tail: Vec<&str> = failure.tail.lines().rev().filter(|line| !line.contains(r#""progress""#)).take(12).collect();
    let tail: String = tail.iter().rev().map(|line| format!("          | {line}\n")).collect();
    format!("{what} of {}: {}\n          seed {seed}: {}\n{tail}", run.title, failure.what, failure.command)
}

fn recent_faults(all: &[InjectedFault], began: Instant) -> String {
    let since = |at: Instant| format!("{:.1}", at.saturating_duration_since(began).as_secs_f64());
    let line = |injected: &InjectedFault| {
        let end = injected.ended.map_or_else(|| "now".to_owned(), since);
        let node = injected.node.as_deref().unwrap_or("-");
        format!("          {} {node}: {} s to {end} s\n", injected.fault.kind(), since(injected.began))
    };
    all.iter().rev().take(RECENT).map(line).collect()
}

/// The effect of the faults, by the clients' times.
fn evaluate(runs: &[ClientRun], all: &[InjectedFault], began: Instant) -> Report {
    let (mut plays, mut fetches) = (BTreeMap::<&str, Vec<Duration>>::new(), BTreeMap::<&str, Vec<Duration>>::new());
    let (mut unaffected, mut worst) = (Vec::new(), Vec::new());
    for injected in all {
        let (kind, from) = (injected.fault.kind(), injected.began);
        let to = injected.ended.unwrap_or(from) + AFTERMATH;
        for run in runs {
            let Some(gap) = gap::longest(&run.arrivals, from, to, run.spacing) else { continue };
            let is_play = run.spec.task == Task::Play;
            if affects(injected, run, to) {
                let gaps = if is_play { &mut plays } else { &mut fetches };
                gaps.entry(kind.name()).or_default().push(gap);
                worst.extend(is_play.then(|| (gap, gap_line(injected, run, gap, to, began))));
            } else if is_play && all.iter().all(|other| !may_affect(other, run, from, to)) {
                unaffected.push(gap);
            }
        }
    }
    worst.sort_by_key(|(gap, _)| std::cmp::Reverse(*gap));
    let of = |gaps: BTreeMap<&'static str, Vec<Duration>>| {
        gaps.into_iter().map(|(kind, gaps)| (kind, Spread::of(gaps))).collect::<BTreeMap<_, _>>()
    };
    let failed = |kind: FailureKind| {
        runs.iter().filter(|run| run.failure.as_ref().is_some_and(|failure| failure.kind == kind)).count() as u64
    };
    let stalled_for: Duration = runs.iter().map(|run| run.stalled_for).sum();
    Report {
        outputs: runs.len() as u64,
        plays: runs.iter().filter(|run| run.spec.task == Task::Play).count() as u64,
        wrong_bytes: failed(FailureKind::Bytes),
        client_errors: failed(FailureKind::End),
        stalls: runs.iter().map(|run| u64::from(run.stalls)).sum(),
        stalled_ms: units::millis(stalled_for),
        gap_ms: of(plays),
        fetch_gap_ms: of(fetches),
        unaffected_gap_ms: Spread::of(unaffected),
        worst: worst.into_iter().take(WORST).map(|(_, line)| line).collect(),
        ..Report::default()
    }
}

/// Whether a fault affects a client: the client's node has the fault, or the client had to move, or the fault affects all.
fn affects(injected: &InjectedFault, run: &ClientRun, to: Instant) -> bool {
    let served = injected.node.as_deref().is_some_and(|node| run.was_served_by(node, injected.began));
    match injected.fault.kind() {
        Kind::Master => true,
        Kind::Rebalance => run.changed(injected.began, to),
        Kind::Corrupt => served && matches!(injected.fault, Fault::Corrupt { title, .. } if title == run.spec.title),
        _ => served,
    }
}

/// Whether a fault may have affected a client's delivery within `from..=to`.
fn may_affect(injected: &InjectedFault, run: &ClientRun, from: Instant, to: Instant) -> bool {
    let until = injected.ended.map_or(to, |ended| ended + AFTERMATH);
    let overlaps = injected.began <= to && from <= until;
    let (from, to) = (injected.began.max(from), until.min(to));
    overlaps && injected.node.as_deref().is_none_or(|node| run.was_served_by_between(node, from, to))
}

/// The report's line about an interruption.
fn gap_line(injected: &InjectedFault, run: &ClientRun, gap: Duration, to: Instant, began: Instant) -> String {
    let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
    let then = run.nodes.iter().filter(|(at, _)| (injected.began..=to + gap).contains(at));
    let then: Vec<String> = then.map(|(at, node)| format!("{:.1} s {node}", since(*at))).collect();
    let (kind, node) = (injected.fault.kind(), injected.node.as_deref().unwrap_or("-"));
    let from = since(injected.began);
    format!("{} ms: {kind} {node} at {from:.1} s, {}; then: {}", gap.as_millis(), run.title, then.join(", "))
}
