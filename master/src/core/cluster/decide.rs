//! Decides requests: look up the title, choose a node, reserve the rate. Owns the order of these steps.

use rand::{Rng, RngExt as _};
use usher_proto::{
    Bitrate, SessionId,
    code::Code,
    model::{Origin, What},
    ticket::Purpose,
};

use super::{
    super::{
        NodeId, Now,
        balancer::{
            self, Candidate, Coverage, DEFAULT_RATE, HolderCounts, MAX_HOLDERS, NoChoice, SeatCriteria, Verdict,
        },
        catalog::TitleVersion,
        journal::{self, DecisionRecord, Outcome, Selection},
        ledger::Booking,
    },
    Cluster, MoveSearch, SessionMove,
    request::{Decision, DecisionReason, Refused, SeatRequest},
};

/// A fetch reserves at most one part in this many of its largest node.
const FETCH_SHARE: u64 = 4;

/// A viewer reserves at most this many times the title's own rate: more than any player reads ahead for long.
pub(super) const MAX_RATE_FACTOR: u64 = 4;

/// Buffers reused between decisions, so that a decision allocates only its answer.
#[derive(Default)]
pub(super) struct Scratch {
    found: Vec<TitleVersion>,
    holders: Vec<(NodeId, usize)>,
    pub(super) exclude: Vec<NodeId>,
    full: Vec<NodeId>,
    pub(super) ranked: Vec<Candidate>,
    pub(super) steps: Vec<SessionMove>,
    /// Reservations to release before the decision is reserved.
    pub(super) released: Vec<SessionId>,
}

/// Outcome of a request before anything is reserved.
pub(super) struct Choice {
    pub(super) rate: Bitrate,
    pub(super) count: HolderCounts,
    /// Index of the chosen holder in `ranked` and the rule that found it, or why there is none.
    pub(super) seat: Result<(usize, Selection), NoChoice>,
}

impl Cluster {
    /// Decides one request. `session` must be new.
    pub fn resolve(
        &mut self,
        now: Now,
        session: SessionId,
        request: &SeatRequest<'_>,
        rng: &mut impl Rng,
    ) -> Result<Decision, Refused> {
        self.decide(now, session, request, None, rng)
    }

    /// Decides several requests in order, each seeing the reservations of those before it. A node that could serve more
    /// of them is preferred if its headroom is close to the best.
    pub fn resolve_many(
        &mut self,
        now: Now,
        requests: &[(SessionId, SeatRequest<'_>)],
        rng: &mut impl Rng,
    ) -> Vec<Result<Decision, Refused>> {
        let mut coverage = Coverage::default();
        for (_, request) in requests.iter().filter(|(_, request)| request.feed().is_none()) {
            self.look_up(request);
            self.scratch.exclude(request.exclude.iter().filter_map(|name| self.roster.id(name)));
            let Some(first) = self.scratch.found.first() else { continue };
            let rate = self.rate(now, request, first).0;
            let Scratch { holders, exclude, .. } = &self.scratch;
            let criteria =
                SeatCriteria { rate, exclude, zone: request.zone, needs: request.needs, coverage: None, full: &[] };
            for (node, _) in holders {
                if balancer::could_serve(&self.view(now), &criteria, *node) {
                    coverage.add(*node);
                }
            }
        }
        let decide = |(session, request): &(SessionId, SeatRequest<'_>)| {
            let decision = self.decide(now, *session, request, Some(&coverage), rng);
            if let Ok(decision) = &decision {
                // Among nodes that could serve equally many, prefer one already chosen.
                coverage.add(decision.first);
            }
            decision
        };
        requests.iter().map(decide).collect()
    }

    /// Explains a decision; `None` once the node is forgotten.
    pub fn reason<'a>(&'a self, decision: &'a Decision) -> Option<DecisionReason<'a>> {
        let node = self.roster.node(decision.first)?;
        let relay = decision.relay.and_then(|relay| self.roster.node(relay)).map(|node| node.name().as_str());
        Some(DecisionReason { decision, node: node.name().as_str(), capacity: node.hello.capacity, relay })
    }

    /// Returns the decision that would be made now; reserves, probes and moves nothing.
    pub fn explain(
        &mut self,
        now: Now,
        request: &SeatRequest<'_>,
        rng: &mut impl Rng,
    ) -> Result<DecisionRecord, Refused> {
        let choice = match request.feed() {
            Some(title) => self.evaluate_feed(now, title, request, rng)?,
            None => self.evaluate(now, request, None, rng)?,
        };
        Ok(self.record(now, None, request, &choice))
    }

    fn decide(
        &mut self,
        now: Now,
        session: SessionId,
        request: &SeatRequest<'_>,
        coverage: Option<&Coverage>,
        rng: &mut impl Rng,
    ) -> Result<Decision, Refused> {
        if let Some(title) = request.feed() {
            return self.decide_feed(now, session, title, request, rng);
        }
        let choice = self.evaluate(now, request, coverage, rng)?;
        self.check_viewer(request, choice.rate)?;
        let record = self.record(now, Some(session), request, &choice);
        self.journal.keep(record);
        for at in 0..self.scratch.ranked.len() {
            if self.scratch.ranked[at].verdict == Verdict::Unsure {
                self.probe(now, self.scratch.ranked[at].node);
            }
        }
        let no = |why| Refused::NoChoice { what: request.what.clone(), why };
        let key = self.scratch.found.first().map(|found| self.catalog.key(found));
        self.account_outcome(now, request.source, key, &choice);
        let (at, how) = choice.seat.map_err(no)?;
        let best = self.scratch.ranked[at];
        let Scratch { found, holders, ranked, .. } = &self.scratch;
        let name_of = |node| holders.iter().find(|(holder, _)| *holder == node).map(|(_, at)| *at);
        let title_at = name_of(best.node).unwrap_or(0);
        // A holder under another name would be another title to the client.
        let others = ranked.iter().filter(|other| other.verdict == Verdict::Fit && other.node != best.node);
        let mut others = others.map(|other| other.node).filter(|node| name_of(*node) == Some(title_at));
        let alternates = std::array::from_fn(|_| others.next());
        let found = found.get(title_at).copied();
        let facts = found.and_then(|found| self.catalog.facts(&found)).ok_or_else(|| no(NoChoice::NotFound))?;
        let decision = Decision {
            session,
            title: facts.title.clone(),
            content: facts.content,
            size: facts.size,
            rate: choice.rate,
            first: best.node,
            alternates,
            headroom: best.headroom(),
            how,
            burst: how == Selection::Burst || best.is_tight(choice.rate.0),
            count: choice.count,
            relay: None,
        };
        let content = found.map(|found| self.catalog.key(&found));
        self.release_found(now, how);
        let booking = Booking { session, node: best.node, content, rate: choice.rate.0, purpose: request.purpose };
        self.ledger.reserve(now, booking, request.source);
        self.note_viewer(request, session);
        if let Selection::Moved(_) = how {
            let steps = std::mem::take(&mut self.scratch.steps);
            self.start_moves(now, &steps);
            self.scratch.steps = steps;
        }
        self.record_session_size(choice.rate);
        Ok(decision)
    }

    /// Looks up the title and assesses its holders. Leaves the ranked holders and the moves that free capacity in
    /// `scratch`.
    fn evaluate(
        &mut self,
        now: Now,
        request: &SeatRequest<'_>,
        coverage: Option<&Coverage>,
        rng: &mut impl Rng,
    ) -> Result<Choice, Refused> {
        self.look_up(request);
        let first = self.scratch.found.first().copied();
        let first = first.ok_or_else(|| {
            let why = if self.is_gathering(now.instant) { NoChoice::Gathering } else { NoChoice::NotFound };
            Refused::NoChoice { what: request.what.clone(), why }
        })?;
        let size = self.catalog.facts(&first).map_or(0, |facts| facts.size);
        if request.range.within(size).is_none() {
            return Err(Refused::Range { what: request.what.clone(), start: request.range.start, size });
        }
        let rate = self.rate(now, request, &first);
        self.scratch.exclude(request.exclude.iter().filter_map(|name| self.roster.id(name)));
        let failed = request.failed.iter();
        let full = failed.filter(|failed| matches!(failed.code, Code::NoCapacity | Code::BudgetExceeded));
        self.scratch.full.clear();
        self.scratch.full.extend(full.filter_map(|failed| self.roster.id(&failed.node)));
        let mut scratch = std::mem::take(&mut self.scratch);
        let criteria = SeatCriteria {
            full: &scratch.full,
            rate: rate.0,
            exclude: &scratch.exclude,
            zone: request.zone,
            needs: request.needs,
            coverage,
        };
        let many = scratch.holders.len() > MAX_HOLDERS;
        let from = if many { rng.random_range(0..scratch.holders.len()) } else { 0 };
        let holders = scratch.holders.iter().cycle().skip(from).take(scratch.holders.len().min(MAX_HOLDERS));
        let holders = holders.map(|(node, at)| (*node, self.serves(*node, scratch.found.get(*at), request)));
        let view = self.view(now);
        let mut count = balancer::rank(&view, &criteria, holders, rng, &mut scratch.ranked);
        let yields = self.yield_to_lighter(now, request.source, rate.0, &mut scratch.ranked, &mut count);
        let (ranked, released) = (&scratch.ranked, &mut scratch.released);
        let seat = self.seat(now, &criteria, request, (count, yields), rng, (ranked, &mut scratch.steps, released));
        self.scratch = scratch;
        Ok(Choice { rate, count, seat })
    }

    /// Chooses among ranked holders: the best usable one, or the best fallback. No session is moved and no reserve spent
    /// for a client that `yields` to a lighter one.
    fn seat(
        &mut self,
        now: Now,
        criteria: &SeatCriteria<'_>,
        request: &SeatRequest<'_>,
        (count, yields): (HolderCounts, bool),
        rng: &mut impl Rng,
        (ranked, steps, released): (&[Candidate], &mut Vec<SessionMove>, &mut Vec<SessionId>),
    ) -> Result<(usize, Selection), NoChoice> {
        steps.clear();
        let verdict = ranked.first().map(|best| best.verdict);
        if verdict == Some(Verdict::Fit) || (request.unsure && verdict == Some(Verdict::Unsure)) {
            return Ok((0, if ranked.len() == 1 { Selection::Only } else { Selection::Best }));
        }
        if let Some(at) = balancer::panic_choice(criteria, ranked) {
            return Ok((at, Selection::Panic));
        }
        if verdict == Some(Verdict::Unsure) {
            return Err(count.refuse(Bitrate(criteria.rate)));
        }
        // The cheapest for others: nothing runs on these reservations.
        let claim = |with_reserve| (request.source, criteria.rate, with_reserve);
        if let Some(at) = self.find_releases(now, claim(false), ranked, criteria.full, released) {
            return Ok((at, Selection::Released(released.len())));
        }
        if yields {
            return Err(count.refuse(Bitrate(criteria.rate)));
        }
        if self.settings.moves && count.full > 0 {
            let full = ranked.iter().filter(|one| matches!(one.verdict, Verdict::Full | Verdict::Cold));
            let full = full.map(|one| one.node);
            let node =
                self.search(now, |search: &mut MoveSearch<'_>| search.free_capacity(criteria.rate, full, rng, steps));
            if let Some(at) = node.and_then(|node| ranked.iter().position(|one| one.node == node)) {
                return Ok((at, Selection::Moved(steps.len())));
            }
        }
        if let Some(at) = balancer::reserve_choice(ranked) {
            return Ok((at, Selection::Cold));
        }
        // The reserve that this client could have used if others had not reserved beside it.
        if let Some(at) = self.find_releases(now, claim(true), ranked, criteria.full, released) {
            return Ok((at, Selection::Released(released.len())));
        }
        if self.settings.bursts
            && let Some(at) = balancer::burst_choice(&self.view(now), criteria, ranked)
        {
            return Ok((at, Selection::Burst));
        }
        Err(count.refuse(Bitrate(criteria.rate)))
    }

    /// Whether a holder's copy can serve the request. An incomplete copy that arrives fast enough serves playback from
    /// the beginning only.
    fn serves(&self, node: NodeId, found: Option<&TitleVersion>, request: &SeatRequest<'_>) -> bool {
        let Some(found) = found else { return false };
        let from_its_beginning = request.range.start == 0 && request.purpose == Purpose::Play;
        let grows = || {
            from_its_beginning && {
                let key = self.catalog.key(found);
                self.planner.as_ref().is_some_and(|planner| planner.serves_while_copying(key, node))
            }
        };
        let mut copies = self.catalog.copies(found).filter(|copy| copy.node == node);
        copies.any(|copy| copy.origin != Origin::Growing || grows())
    }

    pub(super) fn record(
        &self,
        now: Now,
        session: Option<SessionId>,
        request: &SeatRequest<'_>,
        choice: &Choice,
    ) -> DecisionRecord {
        let chosen = choice.seat.as_ref().ok().map(|(at, _)| *at);
        let (holders, omitted) = journal::holders(&self.scratch.ranked, chosen);
        let outcome = match &choice.seat {
            Ok((_, how)) => Outcome::Chosen(*how),
            Err(why) => Outcome::Refused(why.clone()),
        };
        DecisionRecord {
            tag: request.tag,
            at: now,
            session,
            what: request.what.clone(),
            purpose: request.purpose,
            rate: choice.rate,
            outcome,
            holders,
            omitted,
        }
    }

    /// Updates the moving averages of session sizes; about a thousand sessions count.
    fn record_session_size(&mut self, rate: Bitrate) {
        let kbit = (rate.0 / 1000).clamp(1, 1 << 24);
        let (square, mean) = &mut self.sizes;
        let fade = |sum: &mut u64, one: u64| *sum = *sum - *sum / 1024 + one / 1024;
        fade(square, (kbit * kbit) << 10);
        fade(mean, kbit << 10);
        self.common.grain = (*square / (*mean).max(1)).max(1) * 1000;
    }

    /// Fills `scratch` with the contents that a request may have and their holders, each node once.
    fn look_up(&mut self, request: &SeatRequest<'_>) {
        let Scratch { found, holders, .. } = &mut self.scratch;
        found.clear();
        holders.clear();
        match request.what {
            What::Title(title) => {
                found.extend(self.catalog.by_title(title.as_str(), |node| self.roster.attached(node)));
            }
            What::Content(content) => {
                self.catalog.by_content(content, found);
                if let Some(rights) = request.viewer.map(|viewer| &viewer.rights) {
                    found.retain(|found| {
                        self.catalog.facts(found).is_some_and(|facts| rights.covers(facts.title.as_str()))
                    });
                }
            }
        }
        for (at, version) in found.iter().enumerate() {
            holders.extend(self.catalog.holders(version).map(|node| (node, at)));
        }
        if found.len() > 1 {
            // A node may hold one content under two names.
            holders.sort_unstable();
            holders.dedup_by_key(|(node, _)| *node);
        }
    }

    /// Rate to reserve. A viewer gets at least the title's own rate, since it will use that much, and at most
    /// [`MAX_RATE_FACTOR`] times that. A fetch yields to
    /// viewers, so it reserves in proportion to its nodes and is never too fast for all of them.
    fn rate(&self, now: Now, request: &SeatRequest<'_>, found: &TitleVersion) -> Bitrate {
        let own = self.catalog.facts(found).map(|facts| facts.bitrate).filter(|rate| rate.0 > 0);
        let own = own.unwrap_or(DEFAULT_RATE).0;
        let requested = request.rate.map_or(own, |rate| rate.0);
        Bitrate(match request.purpose {
            Purpose::Play => requested.clamp(own, own.saturating_mul(MAX_RATE_FACTOR)),
            Purpose::Fetch => {
                let holders = self.scratch.holders.iter().filter_map(|(node, _)| self.roster.node(*node));
                let serving = holders.filter(|node| node.can_serve(now.instant));
                let largest = serving.map(|node| node.hello.capacity.0).max();
                requested.min(own).min(largest.map_or(u64::MAX, |largest| (largest / FETCH_SHARE).max(1)))
            }
        })
    }
}

impl Scratch {
    pub(super) fn exclude(&mut self, nodes: impl Iterator<Item = NodeId>) {
        self.exclude.clear();
        self.exclude.extend(nodes);
    }
}
