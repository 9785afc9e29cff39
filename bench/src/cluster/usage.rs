//! Processor time and memory of processes, by the kernel's count. Independent of their work.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Ticks of /proc/PID/stat in a second; Linux fixes it for user space.
const TICKS: f64 = 100.0;

/// Ticks by which the coarse clock may be wrong: user and system time are each cut to whole ones.
const COARSE: f64 = 2.0;

/// Processor time, user and system, that processes use from its making on.
pub(crate) struct Meter {
    began: Instant,
    used: Vec<(u32, Used)>,
}

/// Processor time of one process.
struct Used {
    /// By all threads that it ever had.
    ticks: u64,
    /// By each thread that it has now, in nanoseconds.
    threads: BTreeMap<u32, u64>,
}

impl Meter {
    /// Begins to count for the processes of these numbers.
    pub(crate) fn start(processes: &[u32]) -> anyhow::Result<Self> {
        let used = processes.iter().map(|id| Ok((*id, Used::read(*id)?))).collect::<anyhow::Result<_>>()?;
        Ok(Self { began: Instant::now(), used })
    }

    /// Seconds used since then by all of them.
    pub(crate) fn seconds(&self) -> anyhow::Result<f64> {
        self.used.iter().map(|(id, before)| Ok(Used::read(*id)?.since(before))).sum()
    }

    /// Time since then.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Used {
    fn read(process: u32) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        let tasks = fs::read_dir(format!("/proc/{process}/task")).context("list threads in /proc")?;
        for task in tasks.filter_map(Result::ok) {
            // A thread may end meanwhile; some kernels keep no such statistics.
            let Ok(stat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let id = task.file_name().to_string_lossy().parse::<u32>().ok();
            let nanos = stat.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            threads.extend(id.zip(nanos));
        }
        // Fields 14 and 15 of proc(5).
        Ok(Self { ticks: ticks(&process.to_string(), 14)?, threads })
    }

    /// Threads are counted to the nanosecond, but those that ended are in the ticks only.
    fn since(&self, before: &Self) -> f64 {
        let ticks = self.ticks.saturating_sub(before.ticks) as f64;
        let all_there = !before.threads.is_empty() && before.threads.keys().all(|id| self.threads.contains_key(id));
        if !all_there {
            return ticks / TICKS;
        }
        let old = |id| before.threads.get(id).copied().unwrap_or(0);
        let nanos: u64 = self.threads.iter().map(|(id, now)| now.saturating_sub(old(id))).sum();
        (nanos as f64 / 1e9).max((ticks - COARSE) / TICKS)
    }
}

/// Seconds used by all children of this process that were waited for.
pub(crate) fn children() -> anyhow::Result<f64> {
    // Fields 16 and 17 of proc(5).
    Ok(ticks("self", 16)? as f64 / TICKS)
}

/// Sum of the anonymous resident memory of processes, in bytes; mapped files are not included.
pub(crate) fn resident(processes: &[u32]) -> anyhow::Result<u64> {
    processes.iter().map(|id| resident_one(*id)).sum()
}

fn resident_one(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("read /proc")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("find RssAnon in /proc")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse().context("a number")?;
    Ok(kib * 1024)
}

/// The processes that this one has started and that are still there.
pub(crate) fn children_of(process: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")?.filter_map(Result::ok) {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // It may end meanwhile. Field 4 of proc(5) is the parent.
        if field(&id.to_string(), 4).is_ok_and(|parent| parent == u64::from(process)) {
            found.push(id);
        }
    }
    Ok(found)
}

/// The sum of a user time and the system time behind it.
fn ticks(process: &str, at: usize) -> anyhow::Result<u64> {
    Ok(field(process, at)? + field(process, at + 1)?)
}

/// A field of /proc/PROCESS/stat, counted as in proc(5).
fn field(process: &str, at: usize) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("read /proc")?;
    nth(&stat, at).with_context(|| format!("field {at} of /proc/{process}/stat"))
}

/// The name, field 2, may hold spaces and parentheses: fields are counted from behind it.
fn nth(stat: &str, at: usize) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(at.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 4194304 100 0 0 0 11 12 13 14 20 0 1";
        assert_eq!(nth(stat, 4), Some(3));
        assert_eq!([14, 15, 16, 17].map(|at| nth(stat, at)), [Some(11), Some(12), Some(13), Some(14)]);
        assert_eq!((nth(stat, 3), nth(stat, 99)), (None, None));
    }

    #[test]
    fn threads_that_ended_are_in_the_ticks() {
        let used = |ticks, threads: &[(u32, u64)]| Used { ticks, threads: threads.iter().copied().collect() };
        let before = used(100, &[(1, 500_000_000), (2, 500_000_000)]);
        let fine = used(105, &[(1, 530_000_000), (2, 520_000_000), (3, 4_000_000)]).since(&before);
        assert!((fine - 0.054).abs() < 1e-9, "{fine}");
        let ended = used(130, &[(1, 530_000_000)]).since(&before);
        assert!((ended - 0.3).abs() < 1e-9, "{ended}");
        let born_and_dead = used(150, &[(1, 530_000_000), (2, 520_000_000)]).since(&before);
        assert!((born_and_dead - 0.48).abs() < 1e-9, "{born_and_dead}");
    }

    #[test]
    fn this_process_can_be_read() {
        let me = std::process::id();
        let meter = Meter::start(&[me]).expect("/proc");
        assert!(meter.seconds().expect("/proc") >= 0.0);
        assert!(resident(&[me]).expect("/proc") > 0);
        assert!(children().expect("/proc") >= 0.0);
    }
}
