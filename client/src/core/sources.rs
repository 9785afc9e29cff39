//! One title from several sources at once: which of them sends which groups, and which copy of a group counts.
//!
//! The wanted groups are cut into runs, which sources get as they finish. A run goes back when its source is lost; what is
//! left of it is also asked of another source when that has nothing to do and its holder is much slower, and then the
//! first copy of each group wins. Sources send what they were asked for in order and cannot be told to leave it, so that
//! a second copy costs bytes: it is kept within a budget, which only silence lifts.
//! Refuses to know what a source is, how it is asked, and where bytes go.

mod growth;
mod pace;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

pub use self::growth::{Growth, Wish};
use self::pace::Pace;

/// Groups of a run, 4 MiB: the hashes of its page come again with it, 8 KiB or 0.2 %.
pub const RUN: u64 = 64;

/// The least that a run is cut to, for a slow source and near the end: 512 KiB. Its hashes are 1.6 % of it, but then few
/// bytes come in such runs.
const LEAST: u64 = 8;

/// Runs that a source is asked for at once: while it sends one, the next is known to it, and no round trip is lost.
const OUTSTANDING: usize = 2;

/// Groups from the first that is missing to the last that may be asked for: 32 MiB of memory in front of the sink.
pub const WINDOW: u64 = 512;

/// A source that sent nothing for this long may be about to be lost: what it was asked for is worth a second copy.
const SILENT: Duration = Duration::from_secs(1);

/// A source, as its owner counts them.
pub type Id = u32;

#[derive(Debug)]
struct Source {
    id: Id,
    /// What it was asked for and has not sent, in the order in which it will.
    asked: VecDeque<Range<u64>>,
    pace: Pace,
    /// It has fallen silent.
    doubted: bool,
    /// It is asked for nothing more.
    leaving: bool,
}

/// A run that is asked for.
#[derive(Debug)]
struct Run {
    end: u64,
    /// The first group of it that is missing.
    next: u64,
    /// One source, or two.
    holders: Vec<Id>,
}

/// Who sends what; by default, nothing is wanted.
#[derive(Debug, Default)]
pub struct Sources {
    sources: Vec<Source>,
    /// By their first groups.
    runs: BTreeMap<u64, Run>,
    /// Parts of runs whose sources were lost: first group and end.
    back: BTreeMap<u64, u64>,
    /// The first group that nobody was ever asked for.
    fresh: u64,
    end: u64,
    /// Sources that there will be, as far as is known.
    expected: usize,
    kept: u64,
    duplicates: u64,
    /// Groups that may still be asked for twice while everyone sends.
    budget: u64,
}

impl Sources {
    /// Wants these groups of a title.
    pub fn new(groups: Range<u64>) -> Self {
        let Range { start, end } = groups;
        let budget = end.saturating_sub(start) / 512 + LEAST;
        let (sources, runs, back) = Default::default();
        Self { sources, runs, back, fresh: start, end, expected: 1, kept: 0, duplicates: 0, budget }
    }

    /// So many sources will be there in a moment: something is left for them. 1 if no more come than are there.
    pub fn expect(&mut self, sources: usize) {
        self.expected = sources;
    }

    /// Another source, which may be asked from now on.
    pub fn add(&mut self, id: Id) {
        let pace = Pace::default();
        self.sources.push(Source { id, asked: VecDeque::new(), pace, doubted: false, leaving: false });
    }

    /// The source sends nothing any more: what it was asked for goes back.
    pub fn lost(&mut self, id: Id) {
        self.sources.retain(|source| source.id != id);
        for run in self.runs.values_mut() {
            run.holders.retain(|holder| *holder != id);
        }
        let back = &mut self.back;
        self.runs.retain(|_, run| {
            let held = !run.holders.is_empty();
            if !held {
                back.insert(run.next, run.end);
            }
            held
        });
    }

    /// The source has fallen silent: what it owes is worth a second copy, until it sends something.
    pub fn doubt(&mut self, id: Id) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == id) {
            source.doubted = true;
        }
    }

    /// Whether the source is silent.
    pub fn is_doubted(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.doubted)
    }

    /// Whether the source was told of as leaving.
    pub fn is_leaving(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.leaving)
    }

    /// The source sends no group from `until` on, and nothing of what it was asked for after what it is sending: that goes
    /// back at once.
    pub fn leave(&mut self, id: Id, until: u64) {
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
                (true, true) => drop(self.back.insert(next, end)),
                (true, false) => drop(self.runs.insert(next, Run { end, next, holders: others })),
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// Groups that came and were new.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Groups that came and were there already.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Groups that are missing.
    pub fn missing(&self) -> u64 {
        let runs: u64 = self.runs.values().map(|run| run.end - run.next).sum();
        let back: u64 = self.back.iter().map(|(start, end)| end - start).sum();
        runs + back + (self.end - self.fresh)
    }

    /// Whether every group came.
    pub fn is_done(&self) -> bool {
        self.missing() == 0
    }

    /// Whether the source owes nothing.
    pub fn is_idle(&self, id: Id) -> bool {
        self.sources.iter().any(|source| source.id == id && source.asked.is_empty())
    }

    /// What to ask the source for now, if anything; it is taken to be asked. To be called until it gives nothing, after
    /// anything happened, and now and then when nothing does.
    pub fn assign(&mut self, now: Instant, id: Id) -> Option<Range<u64>> {
        let at = self.sources.iter().position(|source| source.id == id && !source.leaving && !source.doubted)?;
        let outstanding = self.sources.get(at)?.asked.len();
        // One that is slower than the least run allows for would hold the others up.
        let most = if self.share(at).is_some_and(|share| share < LEAST) { 1 } else { OUTSTANDING };
        if outstanding >= most {
            return None;
        }
        let range = match self.unheld(at) {
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

    /// Takes note of a verified group from a source; whether it is new.
    pub fn received(&mut self, now: Instant, id: Id, index: u64) -> bool {
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == id) {
            source.pace.received(now);
            source.doubted = false;
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

    /// The first group that is missing.
    fn first_missing(&self) -> u64 {
        let run = self.runs.values().next().map_or(self.fresh, |run| run.next);
        let back = self.back.keys().next().copied().unwrap_or(self.fresh);
        run.min(back).min(self.fresh)
    }

    /// Groups that nobody holds: what came back first, the first groups first.
    fn unheld(&mut self, at: usize) -> Option<Range<u64>> {
        let size = self.size(at);
        let most = self.first_missing().saturating_add(WINDOW);
        if let Some((start, end)) = self.back.first_key_value().map(|(start, end)| (*start, *end)) {
            if start >= most {
                return None;
            }
            self.back.remove(&start);
            let cut = edge(start, size).min(end).min(most);
            if cut < end {
                self.back.insert(cut, end);
            }
            return Some(start..cut);
        }
        let (start, end) = (self.fresh, edge(self.fresh, size).min(self.end).min(most));
        (start < end).then(|| {
            self.fresh = end;
            start..end
        })
    }

    /// Groups that the source sends while the fastest sends a whole run; `None` before its first.
    fn share(&self, at: usize) -> Option<u64> {
        let pace = |source: &Source| source.pace.per_group();
        let own = self.sources.get(at).and_then(pace)?;
        let fastest = self.sources.iter().filter_map(pace).min().unwrap_or(own);
        Some(u64::try_from(u128::from(RUN) * fastest.as_nanos() / own.as_nanos().max(1)).unwrap_or(RUN))
    }

    /// Groups of the source's next run: its share, fewer near the end, and few of one that is not known.
    fn size(&self, at: usize) -> u64 {
        let sources = self.count().max(self.expected);
        let Some(share) = self.share(at) else { return if sources > 1 { LEAST } else { RUN } };
        let left = (self.end - self.fresh) / (2 * OUTSTANDING * sources) as u64;
        let most = if sources > 1 { left.max(LEAST) } else { RUN };
        let size = share.min(most).clamp(LEAST, RUN);
        // A power of two, whose edges are edges of pages too.
        1 << size.ilog2()
    }

    /// The end of the run that is last to come, for a source with nothing to do: as much of it as makes both end at once.
    fn second_copy(&mut self, now: Instant, at: usize) -> Option<Range<u64>> {
        let own = self.sources.get(at)?.pace.per_group();
        let mut best: Option<(Duration, u64, u64, bool)> = None;
        for (start, run) in &self.runs {
            let [holder] = run.holders[..] else { continue };
            let Some(holder) = self.sources.iter().find(|source| source.id == holder) else { continue };
            let silent = holder.doubted || holder.pace.silence(now) >= SILENT;
            if silent && run.next < run.end {
                // In order: what comes first is waited for.
                best = Some((Duration::ZERO, *start, run.next, true));
                break;
            }
            let Some(own) = own else { continue };
            let pace = holder.pace.expected(now);
            // It sends what it was asked for before first.
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
