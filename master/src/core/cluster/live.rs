//! Decisions about feeds: where a viewer watches, and from which node a relay reads. A node
//! that carries the feed costs the viewer's rate. Any other node also costs the relay leg, which is reserved at the
//! upstream; the leg is priced at half of leaving the client's zone, since later viewers share it.

use rand::{Rng, RngExt as _};
use usher_proto::{
    Bitrate, Code, Fault, SessionId, Title,
    model::{self, RelayWanted, Requirements},
    ticket::Purpose,
};

use super::{
    super::{
        NodeId, Now,
        balancer::{self, ALTERNATES, Coverage, DEFAULT_RATE, MAX_HOLDERS, NoChoice, SeatCriteria, Verdict},
        feeds::{Feed, FeedSession, Feeds},
        journal::Selection,
        ledger::Booking,
        moves::SessionMove,
        roster::{AttachmentId, NodeState, Roster},
    },
    Cluster, Order,
    decide::{Choice, MAX_RATE_FACTOR},
    publish::RETRY,
    request::{Decision, Refused, SeatRequest},
};

/// Feed sessions moved off a draining node per batch, four batches a second.
const LEAVE_PER_BATCH: usize = 12;

/// The upstream named in a node's feed state.
fn named(roster: &Roster) -> impl Fn(&model::FeedState) -> Option<NodeId> {
    |state| state.upstream.as_ref().and_then(|name| roster.id(name))
}

impl Cluster {
    /// Handles a node's list of feeds.
    pub fn handle_feeds(&mut self, now: Now, attachment: AttachmentId, feeds: model::Feeds) {
        if !self.roster.is_current(attachment) {
            return;
        }
        let rivals = self.feeds.handle_update(now.instant, attachment.node, feeds.0);
        self.orders.extend(rivals.into_iter().map(Order::EndPublisher));
    }

    /// The feeds.
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Rate to reserve for a feed: a viewer receives the published rate, whatever it requests.
    fn feed_rate(feed: &Feed, requested: Option<Bitrate>) -> Bitrate {
        let own = feed.rate().unwrap_or(DEFAULT_RATE).0;
        Bitrate(requested.map_or(own, |requested| requested.0.clamp(own, own.saturating_mul(MAX_RATE_FACTOR))))
    }

    /// Assesses the nodes for a viewer of a feed; leaves them, ranked, in `scratch`.
    pub(super) fn evaluate_feed(
        &mut self,
        now: Now,
        title: &Title,
        request: &SeatRequest<'_>,
        rng: &mut impl Rng,
    ) -> Result<Choice, Refused> {
        let Some(feed) = self.feeds.get(title) else {
            let why = if self.is_gathering(now.instant) { NoChoice::Gathering } else { NoChoice::NotFound };
            return Err(Refused::NoChoice { what: request.what.clone(), why });
        };
        let rate = Self::feed_rate(feed, request.rate);
        let mut carried = Coverage::default();
        let here: Vec<NodeId> =
            feed.carriers().map(|(node, _)| node).filter(|node| self.roster.attached(*node)).collect();
        let attached = self.roster.nodes().filter(|(_, node)| node.attached()).map(|(node, _)| node);
        let all: Vec<NodeId> = attached.collect();
        // Nodes that carry the feed count twice, others once.
        here.iter().chain(&all).for_each(|node| carried.add(*node));
        // Carriers are always examined, whatever their number.
        let from = if all.len() > MAX_HOLDERS { rng.random_range(0..all.len()) } else { 0 };
        let others = all.iter().cycle().skip(from).take(all.len()).filter(|node| !here.contains(node));
        let holders: Vec<NodeId> = here.iter().chain(others).copied().take(MAX_HOLDERS.max(here.len())).collect();
        self.scratch.exclude(request.exclude.iter().filter_map(|name| self.roster.id(name)));
        let mut scratch = std::mem::take(&mut self.scratch);
        let criteria = SeatCriteria {
            full: &[],
            rate: rate.0,
            exclude: &scratch.exclude,
            zone: request.zone,
            needs: request.needs,
            coverage: Some(&carried),
        };
        let holders = holders.into_iter().map(|node| (node, true));
        let mut count = balancer::rank(&self.view(now), &criteria, holders, rng, &mut scratch.ranked);
        let yields = self.yield_to_lighter(now, request.source, rate.0, &mut scratch.ranked, &mut count);
        let ranked = &scratch.ranked;
        let seat = match ranked.first().map(|best| best.verdict) {
            Some(Verdict::Fit) => Ok((0, if ranked.len() == 1 { Selection::Only } else { Selection::Best })),
            Some(Verdict::Unsure) if request.unsure => Ok((0, Selection::Best)),
            Some(Verdict::Unsure) => Err(count.refuse(rate)),
            _ => match balancer::panic_choice(&criteria, ranked).map(|at| (at, Selection::Panic)) {
                Some(found) => Ok(found),
                None => {
                    let releases = |with_reserve, found: &mut Vec<SessionId>| {
                        let claim = (request.source, rate.0, with_reserve);
                        let at = self.find_releases(now, claim, ranked, &[], found);
                        at.map(|at| (at, Selection::Released(found.len())))
                    };
                    let reserve = || balancer::reserve_choice(ranked).map(|at| (at, Selection::Cold));
                    let mut seat = releases(false, &mut scratch.released);
                    if !yields {
                        seat = seat.or_else(reserve).or_else(|| releases(true, &mut scratch.released));
                    }
                    seat.ok_or_else(|| count.refuse(rate))
                }
            },
        };
        self.scratch = scratch;
        Ok(Choice { rate, count, seat })
    }

    /// Decides where a viewer watches a feed.
    pub(super) fn decide_feed(
        &mut self,
        now: Now,
        session: SessionId,
        title: &Title,
        request: &SeatRequest<'_>,
        rng: &mut impl Rng,
    ) -> Result<Decision, Refused> {
        let choice = self.evaluate_feed(now, title, request, rng)?;
        self.check_viewer(request, choice.rate)?;
        let record = self.record(now, Some(session), request, &choice);
        self.journal.keep(record);
        self.account_outcome(now, request.source, None, &choice);
        let ranked = std::mem::take(&mut self.scratch.ranked);
        for one in ranked.iter().filter(|one| one.verdict == Verdict::Unsure) {
            self.probe(now, one.node);
        }
        let no = |why| Refused::NoChoice { what: request.what.clone(), why };
        let Choice { rate, count, seat } = choice;
        let decided = seat.map_err(no).and_then(|(at, how)| {
            // If the best node has no upstream, the next one may.
            let fit = ranked.iter().enumerate().filter(|(other, one)| *other == at || one.verdict == Verdict::Fit);
            let mut able = fit.map(|(_, one)| one).filter_map(|one| {
                let feed = self.feeds.get(title)?;
                let upstreams = if feed.is_at(one.node) {
                    Vec::new()
                } else {
                    self.upstreams(now, title, one.node, rate, &[], rng)?
                };
                Some((*one, upstreams))
            });
            let Some((best, upstreams)) = able.next() else { return Err(no(count.refuse(rate))) };
            let mut others = ranked.iter().filter(|one| one.verdict == Verdict::Fit && one.node != best.node);
            let alternates: [Option<NodeId>; ALTERNATES] = std::array::from_fn(|_| others.next().map(|one| one.node));
            Ok(Decision {
                session,
                title: title.clone(),
                content: None,
                size: 0,
                rate,
                first: best.node,
                alternates,
                headroom: best.headroom(),
                how,
                burst: how == Selection::Burst || best.is_tight(rate.0),
                count,
                relay: upstreams.first().copied(),
            })
            .map(|decision| (decision, upstreams))
        });
        self.scratch.ranked = ranked;
        let (decision, upstreams) = decided?;
        self.release_found(now, decision.how);
        let (node, rate_bps) = (decision.first, rate.0);
        let booking = Booking { session, node, content: None, rate: rate_bps, purpose: Purpose::Play };
        self.ledger.reserve(now, booking, request.source);
        self.note_viewer(request, session);
        self.feeds.add_session(session, FeedSession { title: title.clone(), to: None });
        if !upstreams.is_empty() {
            self.order_relay(now, title, decision.first, rate, &upstreams, rng);
        }
        Ok(decision)
    }

    /// Upstreams of a feed for a node, best first: with headroom, and not downstream of that node. `None` if there is
    /// none.
    fn upstreams(
        &self,
        now: Now,
        title: &Title,
        to: NodeId,
        rate: Bitrate,
        exclude: &[NodeId],
        rng: &mut impl Rng,
    ) -> Option<Vec<NodeId>> {
        const NOTHING: &Requirements =
            &Requirements { protocol: None, labels: Vec::new(), live_ingest: false, records: false };
        let found = self.feeds.get(title)?.upstreams(to, &named(&self.roster));
        let zone = self.roster.node(to).map_or("", |node| node.hello.zone.as_str());
        let criteria = SeatCriteria { full: &[], rate: rate.0, exclude, zone, needs: NOTHING, coverage: None };
        let mut ranked = Vec::new();
        // Among equals, nearer to the publisher first.
        let holders = found.into_iter().map(|(node, _)| (node, true));
        balancer::rank(&self.view(now), &criteria, holders, rng, &mut ranked);
        let able = ranked.iter().filter(|one| matches!(one.verdict, Verdict::Fit | Verdict::Unsure | Verdict::Cold));
        let able: Vec<NodeId> = able.map(|one| one.node).collect();
        let best = *able.first()?;
        // The fallback is the ingest node: two nodes that each fell back to the other would both receive nothing.
        let ingest = self.feeds.get(title)?.ingest().map(|(node, _)| node);
        let ingest = ingest.filter(|node| *node != best && able.contains(node));
        Some(std::iter::once(best).chain(ingest).collect())
    }

    /// Orders a node to relay a feed; the leg is reserved at the first upstream.
    fn order_relay(
        &mut self,
        now: Now,
        title: &Title,
        to: NodeId,
        rate: Bitrate,
        upstreams: &[NodeId],
        rng: &mut impl Rng,
    ) {
        let legs: Vec<(NodeId, SessionId)> = upstreams.iter().map(|node| (*node, self.new_session(rng))).collect();
        if let Some((upstream, session)) = legs.first().copied() {
            let purpose = Purpose::Play;
            self.ledger.reserve(now, Booking { session, node: upstream, content: None, rate: rate.0, purpose }, None);
            self.feeds.handle_ordered(now.instant, title, to, upstream);
        }
        for (_, session) in &legs {
            self.feeds.add_session(*session, FeedSession { title: title.clone(), to: Some(to) });
        }
        self.orders.push(Order::Relay { node: to, title: title.clone(), rate: rate.0, upstreams: legs });
    }

    /// Handles a node that has viewers of a feed and no upstream.
    pub fn handle_relay_wanted(
        &mut self,
        now: Now,
        attachment: AttachmentId,
        wanted: &RelayWanted,
        rng: &mut impl Rng,
    ) {
        if !self.roster.is_current(attachment) {
            return;
        }
        let (node, title) = (attachment.node, &wanted.title);
        for failed in &wanted.failed {
            if matches!(failed.code, Code::Timeout | Code::Network) {
                // The sender's certificate is proof enough.
                self.handle_hint(now, &failed.node, true);
            }
        }
        let Some(feed) = self.feeds.get(title) else {
            let code = if self.is_gathering(now.instant) { Code::Unavailable } else { Code::NotFound };
            let text = if code == Code::NotFound { "the feed is not live" } else { "nodes are still reattaching" };
            self.orders.push(Order::NoRelay { node, title: title.clone(), why: Fault::new(code, text).after(RETRY) });
            return;
        };
        let rate = Self::feed_rate(feed, None);
        let exclude: Vec<NodeId> = wanted.failed.iter().filter_map(|failed| self.roster.id(&failed.node)).collect();
        // A failed upstream may have recovered and is better than none, unless it sent wrong data.
        let sent_wrong_bytes = |node: &NodeId| {
            let name = self.roster.node(*node).map(|node| node.name());
            wanted.failed.iter().any(|failed| Some(&failed.node) == name && failed.code == Code::VerificationFailed)
        };
        let excluded: Vec<NodeId> = exclude.iter().copied().filter(sent_wrong_bytes).collect();
        let upstreams = self
            .upstreams(now, title, node, rate, &exclude, rng)
            .or_else(|| self.upstreams(now, title, node, rate, &excluded, rng));
        match upstreams {
            Some(upstreams) => self.order_relay(now, &title.clone(), node, rate, &upstreams, rng),
            None => {
                let why =
                    Fault::new(Code::Unavailable, "no node carries the feed and has capacity to relay it").after(RETRY);
                self.orders.push(Order::NoRelay { node, title: title.clone(), why });
            }
        }
    }

    /// Moves feed sessions off a draining node, relay legs first. Returns the number moved.
    pub(super) fn move_feed_sessions(
        &mut self,
        now: Now,
        node: NodeId,
        rests: impl Fn(SessionId) -> bool,
        rng: &mut impl Rng,
    ) -> usize {
        let there = |session: SessionId| self.ledger.session(session).is_some_and(|known| known.node == node);
        let sessions = self.feeds.sessions().filter(|(session, _)| there(*session) && !rests(*session));
        let mut sessions: Vec<(SessionId, FeedSession)> =
            sessions.map(|(session, used)| (session, used.clone())).collect();
        // Relay legs first: their viewers then notice nothing.
        sessions.sort_by_key(|(session, used)| (used.to.is_none(), *session));
        let mut left = 0;
        for (session, used) in sessions.into_iter().take(LEAVE_PER_BATCH) {
            let Some(feed) = self.feeds.get(&used.title) else { continue };
            let rate = Self::feed_rate(feed, None);
            let target = match used.to {
                Some(to) => {
                    self.upstreams(now, &used.title, to, rate, &[node], rng).and_then(|nodes| nodes.first().copied())
                }
                None => self.seat_for_viewer(now, &used.title, node, rate, rng),
            };
            let Some(to) = target else { continue };
            let step = SessionMove { session, from: node, to, rate: rate.0 };
            if let Some(relay) = used.to {
                self.feeds.handle_ordered(now.instant, &used.title, relay, to);
            }
            self.start_moves(now, &[step]);
            left += 1;
        }
        left
    }

    /// Finds another node for a viewer, and orders the relay if that node does not carry the feed.
    fn seat_for_viewer(
        &mut self,
        now: Now,
        title: &Title,
        from: NodeId,
        rate: Bitrate,
        rng: &mut impl Rng,
    ) -> Option<NodeId> {
        let mut carried = Coverage::default();
        let here = self.feeds.get(title)?.carriers().map(|(node, _)| node);
        here.chain(self.roster.nodes().map(|(node, _)| node)).for_each(|node| carried.add(node));
        let needs = Requirements::default();
        let criteria = SeatCriteria {
            full: &[],
            rate: rate.0,
            exclude: &[from],
            zone: "",
            needs: &needs,
            coverage: Some(&carried),
        };
        let serving =
            self.roster.nodes().filter(|(_, node)| node.state == NodeState::Serving).map(|(node, _)| (node, true));
        let serving: Vec<(NodeId, bool)> = serving.collect();
        let mut ranked = Vec::new();
        balancer::rank(&self.view(now), &criteria, serving.into_iter(), rng, &mut ranked);
        for one in ranked.iter().filter(|one| one.verdict == Verdict::Fit) {
            if self.feeds.get(title)?.is_at(one.node) {
                return Some(one.node);
            }
            if let Some(upstreams) = self.upstreams(now, title, one.node, rate, &[], rng) {
                self.order_relay(now, title, one.node, rate, &upstreams, rng);
                return Some(one.node);
            }
        }
        None
    }
}
