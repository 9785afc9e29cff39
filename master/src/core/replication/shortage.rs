//! Titles that need copies, and the targets of these copies. Owns the thresholds.

use std::{
    cmp::Reverse,
    hash::Hash,
    ops::Bound,
    time::{Duration, Instant},
};

use usher_proto::model::Origin;

use super::{
    super::{NodeId, fixed::ONE},
    Bounds, CopyOrder, CopyReason, Planner, TitleSource,
    plan_nodes::PlanNode,
    surplus::CopyValue,
};

/// Forecast load of the least loaded holder above which a title is short; the rest is for bursts.
const SHORT: u64 = ONE / 100 * 95;

/// Minimum difference in load between target and holders that makes a copy worthwhile.
const GAIN: u64 = ONE / 100 * 5;

/// Highest load of a target for demand: a fuller one would soon be short as well.
const HIGHEST: u64 = ONE / 100 * 93;

/// Copy rate in per cent of the title's rate at which it can be served meanwhile: playback starts with a burst, and bit
/// rates vary within a file.
const PREFIX: u64 = 125;

/// Time for just-ordered copies of a refused title to start serving.
const SETTLING: Duration = Duration::from_secs(5);

/// Requested titles examined per plan, at one or two microseconds each.
const LOOKS: usize = 4096;

/// Titles visited per plan by the sweep: a million take four minutes.
const SWEEP: usize = 4096;

/// Limit of remembered titles with too few copies; the sweep finds the others later.
const FEW: usize = 65_536;

/// Of these, the number examined per plan.
const REPAIRS: usize = 512;

/// Titles per plan for which targets are sought; each search may visit all nodes.
const SEARCHES: usize = 64;

/// Full nodes per search on which a replica to remove is sought.
const FULL_NODES: usize = 8;

/// A title that needs copies.
struct Shortage<T> {
    title: T,
    why: CopyReason,
    /// Forecast load of its holders, Q32.
    level: u64,
    inflow: u64,
    size: u64,
    rate: u64,
    bounds: Bounds,
}

/// Source and target of a copy.
struct CopyRoute<T> {
    from: NodeId,
    to: NodeId,
    rate: u64,
    relief: bool,
    /// Replica to remove first, and its bytes.
    victim: Option<(T, u64)>,
}

impl<T: Copy + Ord + Hash> Planner<T> {
    /// Orders copies of titles that are short of capacity.
    pub(super) fn order_for_demand<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        titles: &S,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        let mut cases = Vec::new();
        for _ in 0..LOOKS {
            let Some(look) = self.demand.poll_due(now) else { break };
            let Some(facts) = titles.facts(look.title).filter(|facts| facts.hashed) else { continue };
            let inflow = look.rates.inflow(facts.rate, self.session);
            self.holders.set(look.title, titles, (&self.active, &self.nodes));
            let level = self.holders.level(&self.nodes, inflow, None);
            let is_settling = || self.active.of(look.title).any(|(_, run)| run.relief && run.since + SETTLING > now);
            let why = match level > SHORT {
                _ if level == u64::MAX => continue,
                true if look.refused => CopyReason::Refused,
                true => CopyReason::Hot,
                false if look.refused && !is_settling() => CopyReason::Refused,
                false => continue,
            };
            // After a refusal the holders count as full, whatever their reports say.
            let level = if why == CopyReason::Refused { level.max(ONE) } else { level };
            let bounds = self.policy.of(facts.name);
            cases.push(Shortage { title: look.title, why, level, inflow, size: facts.size, rate: facts.rate, bounds });
        }
        cases.sort_by_key(|case| (case.why != CopyReason::Refused, Reverse(case.level), Reverse(case.inflow)));
        for case in cases.iter().take(SEARCHES) {
            if self.active.len() >= self.nodes.most_orders() {
                break;
            }
            self.add(now, case, titles, orders);
        }
    }

    /// Scans part of the catalog for titles with too few copies and for replicas.
    pub(super) fn sweep<S: TitleSource<Title = T>>(&mut self, now: Instant, titles: &S) {
        let next = titles.visit_titles(self.place, SWEEP, |title| {
            let Some(facts) = titles.facts(title).filter(|facts| facts.hashed) else { return };
            self.holders.set(title, titles, (&self.active, &self.nodes));
            for holder in self.holders.all.iter().filter(|holder| holder.origin == Origin::Replica) {
                self.watch.add(now, holder.node, title);
            }
            if self.holders.count() >= self.policy.of(facts.name).min {
                self.few.remove(&title);
            } else if self.few.len() < FEW {
                self.few.entry(title).or_insert(now);
            }
        });
        self.place = next.unwrap_or(0);
    }

    /// Orders copies of titles that have had too few for longer than the grace period.
    pub(super) fn order_repairs<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        titles: &S,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        let mut searches = 0;
        for _ in 0..REPAIRS.min(self.few.len()) {
            if searches == SEARCHES || self.active.len() >= self.nodes.most_orders() {
                break;
            }
            let after = self.few_cursor.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.few.range((after, Bound::Unbounded)).next().or_else(|| self.few.first_key_value());
            let Some((&title, &since)) = next else { break };
            self.few_cursor = Some(title);
            let Some(facts) = titles.facts(title) else {
                self.few.remove(&title);
                continue;
            };
            self.holders.set(title, titles, (&self.active, &self.nodes));
            let bounds = self.policy.of(facts.name);
            if self.holders.count() >= bounds.min {
                self.few.remove(&title);
            } else if now.saturating_duration_since(since) >= self.grace {
                searches += 1;
                let inflow = self.demand.rates(now, &title).inflow(facts.rate, self.session);
                let (why, size, rate) = (CopyReason::Few, facts.size, facts.rate);
                self.add(now, &Shortage { title, why, level: u64::MAX, inflow, size, rate, bounds }, titles, orders);
            }
        }
    }

    /// Orders the copies of a shortage, as far as sources and targets exist.
    fn add<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        case: &Shortage<T>,
        titles: &S,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        let title = case.title;
        if self.titles.is_blocked(now, &title) {
            return;
        }
        self.holders.set(title, titles, (&self.active, &self.nodes));
        let count = self.holders.count();
        let wanted = match case.why {
            CopyReason::Few => case.bounds.min.saturating_sub(count),
            CopyReason::Refused | CopyReason::Hot => {
                (count / 2).max(1).min(case.bounds.max.map_or(u32::MAX, |max| max.saturating_sub(count)))
            }
        };
        for _ in 0..wanted {
            if self.active.len() >= self.nodes.most_orders() {
                return;
            }
            let Some(route) = self.route(now, case, titles) else { return };
            let CopyRoute { from, to, rate, relief, victim } = route;
            if let Some((title, size)) = victim {
                orders.push(CopyOrder::Evict { title, node: to });
                self.active.evict(now, title, to);
                self.watch.evicted(now, title, to);
                self.nodes.free(to, size);
                // The search for a victim used the same buffer.
                self.holders.set(case.title, titles, (&self.active, &self.nodes));
            }
            orders.push(CopyOrder::Replicate { title, from, to, rate, why: case.why });
            self.active.start(now, title, (from, to), case.size, rate, relief);
            self.nodes.count_copy(from, to, case.size);
            self.holders.set(title, titles, (&self.active, &self.nodes));
            let level = self.holders.level(&self.nodes, case.inflow, None);
            if relief {
                self.nodes.raise_level(to, level.min(ONE));
            }
            if case.why != CopyReason::Few && level <= SHORT {
                return;
            }
        }
    }

    /// Best route of one more copy: to a node with storage that can serve meanwhile, then to one that cannot, then to
    /// one where a less valuable replica is removed first.
    fn route<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        case: &Shortage<T>,
        titles: &S,
    ) -> Option<CopyRoute<T>> {
        if case.why == CopyReason::Few {
            // Zones without a copy first; a copy at all matters more than the target's load.
            let zones: Vec<u32> = self.holders.all.iter().filter_map(|holder| self.zone(holder.node)).collect();
            return self
                .search(now, case, |zone, _| !zones.contains(&zone))
                .or_else(|| self.search(now, case, |_, _| true))
                .or_else(|| self.displace_replica(now, case, titles));
        }
        // A copy too slow to serve meanwhile helps only later; one at a time is enough.
        let is_waiting = self.holders.all.iter().any(|holder| !holder.relief);
        let route = self.search(now, case, |_, relief| relief);
        let route = if is_waiting { route } else { route.or_else(|| self.search(now, case, |_, _| true)) };
        route.or_else(|| self.displace_replica(now, case, titles))
    }

    fn search(&mut self, now: Instant, case: &Shortage<T>, fits: impl Fn(u32, bool) -> bool) -> Option<CopyRoute<T>> {
        let sources = self.sources();
        let most = highest(case);
        let (holders, pairs, active) = (&self.holders, &self.pairs, &self.active);
        for (_, to, target) in self.nodes.by_level().take_while(|(level, ..)| *level <= most) {
            if !target.may_be_target() || target.snapshot.storage_free < case.size {
                continue;
            }
            if case.why != CopyReason::Few && target.headroom() < case.rate {
                continue;
            }
            if holders.has(to) || active.is_going(case.title, to) {
                continue;
            }
            let Some((from, source)) = sources.iter().find(|(from, _)| !pairs.is_blocked(now, &(*from, to))) else {
                continue;
            };
            let rate = source.rate_to(target);
            let relief = u128::from(rate) * 100 >= u128::from(case.rate) * u128::from(PREFIX);
            if rate > 0 && fits(target.snapshot.zone, relief) {
                return Some(CopyRoute { from: *from, to, rate, relief, victim: None });
            }
        }
        None
    }

    /// Route to a node without free storage, in place of a surplus copy of less value.
    fn displace_replica<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        case: &Shortage<T>,
        titles: &S,
    ) -> Option<CopyRoute<T>> {
        let most = highest(case);
        let full: Vec<NodeId> = self
            .nodes
            .by_level()
            .take_while(|(level, ..)| *level <= most)
            .filter(|(.., entry)| entry.may_be_target() && entry.snapshot.storage_free < case.size)
            .filter(|(.., entry)| case.why == CopyReason::Few || entry.headroom() >= case.rate)
            .map(|(_, node, _)| node)
            .take(FULL_NODES)
            .collect();
        let sources = self.sources();
        let value = match case.why {
            CopyReason::Few => CopyValue::MAX,
            CopyReason::Refused | CopyReason::Hot => CopyValue::new(case.inflow, self.holders.count() + 1, case.size),
        };
        for to in full {
            if self.holders.has(to) || self.active.is_going(case.title, to) {
                continue;
            }
            let source = sources.iter().find(|(from, _)| !self.pairs.is_blocked(now, &(*from, to)));
            let (Some((from, source)), Some(target)) = (source, self.nodes.of(to)) else { continue };
            let rate = source.rate_to(target);
            if rate == 0 {
                continue;
            }
            let relief = u128::from(rate) * 100 >= u128::from(case.rate) * u128::from(PREFIX);
            let missing = case.size - target.snapshot.storage_free;
            let victim = self.replica_to_displace(now, to, missing, (case.title, value), titles);
            self.holders.set(case.title, titles, (&self.active, &self.nodes));
            if let Some(victim) = victim {
                return Some(CopyRoute { from: *from, to, rate, relief, victim: Some(victim) });
            }
        }
        None
    }

    /// Holders that may be copied from, most headroom first.
    fn sources(&self) -> Vec<(NodeId, PlanNode)> {
        let whole = self.holders.all.iter().filter(|holder| holder.is_whole());
        let nodes = whole.filter_map(|holder| self.nodes.of(holder.node).map(|entry| (holder.node, *entry)));
        let mut sources: Vec<_> = nodes.filter(|(_, entry)| entry.may_be_source()).collect();
        sources.sort_unstable_by_key(|(node, entry)| (Reverse(entry.headroom()), *node));
        sources
    }

    fn zone(&self, node: NodeId) -> Option<u32> {
        self.nodes.of(node).map(|entry| entry.snapshot.zone)
    }
}

/// Highest allowed load of a target, Q32.
fn highest<T>(case: &Shortage<T>) -> u64 {
    match case.why {
        CopyReason::Few => u64::MAX,
        CopyReason::Refused | CopyReason::Hot => case.level.saturating_sub(GAIN).min(HIGHEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stands_below_the_holders() {
        let case = |why, per_cent| {
            let (inflow, size, rate) = (0, 0, 0);
            let level = ONE / 100 * per_cent;
            highest(&Shortage { title: (), why, level, inflow, size, rate, bounds: Bounds { min: 1, max: None } })
        };
        assert_eq!(case(CopyReason::Hot, 96), ONE / 100 * 91);
        assert_eq!(case(CopyReason::Refused, 120), HIGHEST);
        assert_eq!(case(CopyReason::Few, 0), u64::MAX);
    }
}
