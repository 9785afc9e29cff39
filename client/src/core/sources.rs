//! One title from several sources at once: which source sends which groups, and which copy of a group counts.
//!
//! The wanted groups are cut into runs, which are assigned to sources as they finish. When a source is lost, its run is
//! assigned again. When a source is idle and the holder of a run is much slower, the end of that run is assigned to the idle
//! source too, and the first copy of each group counts. A source sends its runs in order and cannot cancel them, so a second
//! copy costs bytes: a budget bounds them, except for silent sources.
//! Sources are numbers here; the drivers ask them and write their bytes.

mod growth;
mod pace;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

pub use self::growth::{Growth, GrowthStep};
use self::pace::Pace;

/// Groups of a run, 4 MiB: each run repeats the hashes of its page, 8 KiB or 0.2 %.
pub const RUN: u64 = 64;

/// Groups of the shortest run, for a slow source and near the end: 512 KiB. Its hashes are 1.6 % of it, but few bytes are
/// sent in such runs.
const MIN_RUN: u64 = 8;

/// Runs assigned to a source at once: it knows the next one while it sends the first, and no round trip is lost.
const OUTSTANDING: usize = 2;

/// Groups from the first missing one to the last that may be assigned: 32 MiB of memory in front of the sink.
pub const WINDOW: u64 = 512;

/// Silence after which a source may be lost soon: its runs are worth a second copy.
const SILENT: Duration = Duration::from_secs(1);

/// Number of a source, given by the driver.
pub type Id = u32;

#[derive(Debug)]
struct SourceState {
    id: Id,
    /// Assigned groups that it has not sent, in the order in which it sends them.
    asked: VecDeque<Range<u64>>,
    pace: Pace,
    silent: bool,
    /// It receives no further assignment.
    leaving: bool,
}

/// A run that is assigned.
#[derive(Debug)]
struct Run {
    end: u64,
    /// Its first missing group.
    next: u64,
    /// One source, or two.
    holders: Vec<Id>,
}

/// Assignments of groups to sources. By default, no group is wanted.
#[derive(Debug, Default)]
pub struct Assignments {
    sources: Vec<SourceState>,
    /// By their first groups.
    runs: BTreeMap<u64, Run>,
    /// Parts of runs whose sources were lost: first group and end.
    returned: BTreeMap<u64, u64>,
    /// The first group that was never assigned.
    fresh: u64,
    end: u64,
    /// Sources to expect, the present ones included.
    expected: usize,
    kept: u64,
    duplicates: u64,
    /// Groups that may still be assigned twice while no source is silent.
    budget: u64,
}

impl Assignments {
    /// Assignments for these groups.
    pub fn new(groups: Range<u64>) -> Self {
        let Range { start, end } = groups;
        let budget = end.saturating_sub(start) / 512 + MIN_RUN;
        let (sources, runs, returned) = Default::default();
        Self { sources, runs, returned, fresh: start, end, expected: 1, kept: 0, duplicates: 0, budget }
    }

    /// The number of sources to expect soon: groups are left for them. 1 if no other is expected.
    pub fn handle_expected(&mut self, sources: usize) {
        self.expected = sources;
    }

    /// A source was added.
    pub fn handle_added(&mut self, id: Id) {
        let pace = Pace::default();
        self.sources.push(SourceState { id, asked: VecDeque::new(), pace, silent: false, leaving: false });
    }

    /// A source was lost: its missing groups are assigned again.
    pub fn handle_lost(&mut self, id: Id) {
        self.sources.retain(|source| source.id != id);
        for run in self.runs.values_mut() {
            run.holders.retain(|holder| *holder != id);
        }
        let returned = &mut self.returned;
        self.runs.retain(|_, run| {
            let held = !run.holders.is_empty();
            if !held {
                returned.insert(run.next, run.end);
            }
            held
        });
    }

    /// A source has fallen silent: its runs are worth a second copy, until it sends again.
    pub fn handle_silent(&mut self, id: Id) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == id) {
            source.silent = true;
        }
    }

    /// Whether the source is silent.
    pub fn is_silent(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.silent)
    }

    /// Whether the source is leaving.
    pub fn is_leaving(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.leaving)
    }

    /// A source leaves: it finishes the run that it is sending, up to group `until`. Its other groups are assigned again at
    /// once.
    pub fn handle_leaving(&mut self, id: Id, until: u64) {
        let Some(source) = self.sources.iter_mut().find(|source| source.id == id) else { return };
        source.leaving = true;
        let sending =
            source.asked.front().map(|range| range.start..range.end.min(until)).filter(|sent| !sent.is_empty());
        source.asked = sending.clone().into_iter().collect();
        let sending = sending.unwrap_or(0..0);
        let held: Vec<u64> = self.runs.iter().filter(|(_, run)| run.holders.contains(&id)).map(|(at, _)| *at).collect();
        for start in held {
            let Some(mut run) = self.runs.remove(&start) else { continue };
            let kept = if sending.contains(&run.next) { run.end.min(sending.end) } else { run.next };
            let others: Vec<Id> = run.holders.iter().copied().filter(|holder| *holder != id).collect();
            let (next, end) = (kept, run.end);
            if run.next < kept {
                run.end = kept;
                self.runs.insert(start, run);
            }
            match (next < end, others.is_empty()) {
                (false, _) => {}
                (true, true) => drop(self.returned.insert(next, end)),
                (true, false) => drop(self.runs.insert(next, Run { end, next, holders: others })),
            }
        }
    }

    /// Number of sources.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// Received groups that were new.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Received groups that had been received before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Number of missing groups.
    pub fn missing(&self) -> u64 {
        let runs: u64 = self.runs.values().map(|run| run.end - run.next).sum();
        let returned: u64 = self.returned.iter().map(|(start, end)| end - start).sum();
        runs + returned + (self.end - self.fresh)
    }

    /// Whether every group was received.
    pub fn is_done(&self) -> bool {
        self.missing() == 0
    }

    /// Whether the source has sent all of its runs.
    pub fn is_idle(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.asked.is_empty())
    }

    /// Assigns the next run to a source, if it should send one. Called until it returns `None`, after every event and at
    /// intervals.
    pub fn poll_run(&mut self, now: Instant, id: Id) -> Option<Range<u64>> {
        let at = self.sources.iter().position(|source| source.id == id && !source.leaving && !source.silent)?;
        let outstanding = self.sources.get(at)?.asked.len();
        // A source slower than the shortest run allows for would delay the others.
        let most = if self.share(at).is_some_and(|share| share < MIN_RUN) { 1 } else { OUTSTANDING };
        if outstanding >= most {
            return None;
        }
        let range = match self.unassigned(at) {
            Some(range) => {
                self.runs.insert(range.start, Run { end: range.end, next: range.start, holders: vec![id] });
                range
            }
            None if outstanding == 0 => self.second_copy(now, at)?,
            None => return None,
        };
        let source = self.sources.get_mut(at)?;
        source.pace.asked(now, outstanding == 0);
        source.asked.push_back(range.clone());
        Some(range)
    }

    /// A source sent a verified group; returns whether it is new.
    pub fn handle_group(&mut self, now: Instant, id: Id, index: u64) -> bool {
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == id) {
            source.pace.received(now);
            source.silent = false;
            if let Some(range) = source.asked.front_mut() {
                range.start = index + 1;
                if range.is_empty() {
                    source.asked.pop_front();
                }
            }
        }
        let run = self.runs.range_mut(..=index).next_back().filter(|(_, run)| run.next == index && index < run.end);
        let Some((start, run)) = run else {
            self.duplicates += 1;
            return false;
        };
        run.next += 1;
        self.kept += 1;
        if run.next == run.end {
            let start = *start;
            self.runs.remove(&start);
        }
        true
    }

    /// The first missing group.
    fn first_missing(&self) -> u64 {
        let run = self.runs.values().next().map_or(self.fresh, |run| run.next);
        let returned = self.returned.keys().next().copied().unwrap_or(self.fresh);
        run.min(returned).min(self.fresh)
    }

    /// Groups that no source holds: returned ones first, in order.
    fn unassigned(&mut self, at: usize) -> Option<Range<u64>> {
        let size = self.size(at);
        let most = self.first_missing().saturating_add(WINDOW);
        if let Some((start, end)) = self.returned.first_key_value().map(|(start, end)| (*start, *end)) {
            if start >= most {
                return None;
            }
            self.returned.remove(&start);
            let cut = edge(start, size).min(end).min(most);
            if cut < end {
                self.returned.insert(cut, end);
            }
            return Some(start..cut);
        }
        let (start, end) = (self.fresh, edge(self.fresh, size).min(self.end).min(most));
        (start < end).then(|| {
            self.fresh = end;
            start..end
        })
    }

    /// Groups that the source sends while the fastest sends a whole run; `None` before its first group.
    fn share(&self, at: usize) -> Option<u64> {
        let pace = |source: &SourceState| source.pace.per_group();
        let own = self.sources.get(at).and_then(pace)?;
        let fastest = self.sources.iter().filter_map(pace).min().unwrap_or(own);
        Some(u64::try_from(u128::from(RUN) * fastest.as_nanos() / own.as_nanos().max(1)).unwrap_or(RUN))
    }

    /// Length of the source's next run: its share, less near the end, and the shortest run while its pace is unknown.
    fn size(&self, at: usize) -> u64 {
        let sources = self.count().max(self.expected);
        let Some(share) = self.share(at) else { return if sources > 1 { MIN_RUN } else { RUN } };
        let left = (self.end - self.fresh) / (2 * OUTSTANDING * sources) as u64;
        let most = if sources > 1 { left.max(MIN_RUN) } else { RUN };
        let size = share.min(most).clamp(MIN_RUN, RUN);
        // A power of two: pages of hashes begin at multiples of it.
        1 << size.ilog2()
    }

    /// The end of the run that finishes last, for an idle source: as much of it as makes both sources finish together.
    fn second_copy(&mut self, now: Instant, at: usize) -> Option<Range<u64>> {
        let own = self.sources.get(at)?.pace.per_group();
        let mut best: Option<(Duration, u64, u64, bool)> = None;
        for (start, run) in &self.runs {
            let [holder] = run.holders[..] else { continue };
            let Some(holder) = self.sources.iter().find(|source| source.id == holder) else { continue };
            let silent = holder.silent || holder.pace.silence(now) >= SILENT;
            if silent && run.next < run.end {
                // In order: the first group is needed first.
                best = Some((Duration::ZERO, *start, run.next, true));
                break;
            }
            let Some(own) = own else { continue };
            let pace = holder.pace.expected(now);
            // It sends its earlier runs first.
            let before = holder.asked.iter().take_while(|range| range.start < run.end);
            let ahead: u64 = before.map(|range| range.end.min(run.end).saturating_sub(range.start)).sum();
            let missing = run.end - run.next;
            let both = pace.as_nanos() + own.as_nanos();
            let even = u64::try_from(u128::from(ahead) * pace.as_nanos() / both.max(1)).unwrap_or(ahead);
            let count = even.min(missing).min(self.budget);
            let saved = times(pace, ahead).saturating_sub(times(own, 2 * count));
            if count > 1 && saved > own && best.is_none_or(|(most, ..)| saved > most) {
                best = Some((saved, *start, run.end - count, false));
            }
        }
        let (_, start, cut, silent) = best?;
        let id = self.sources.get(at)?.id;
        let run = self.runs.get_mut(&start)?;
        let range = cut..run.end;
        if !silent {
            self.budget -= range.end - cut;
        }
        if cut == run.next {
            run.holders.push(id);
        } else {
            let holders = run.holders.iter().copied().chain([id]).collect();
            run.end = cut;
            self.runs.insert(cut, Run { end: range.end, next: cut, holders });
        }
        Some(range)
    }
}

/// The next multiple of `size` after `start`.
fn edge(start: u64, size: u64) -> u64 {
    (start / size + 1) * size
}

fn times(pace: Duration, groups: u64) -> Duration {
    pace.saturating_mul(u32::try_from(groups).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
