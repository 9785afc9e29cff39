//! The ledger against a naive model under random steps, and against a node with delayed updates.

mod fair;
mod late;
mod surplus;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use usher_proto::{Title, model::CatalogPage};

use super::*;
use crate::core::{
    catalog::Catalog,
    test_cluster::{MBIT, copy},
};

const NODES: u32 = 3;
const SESSIONS: u128 = 6;
const SOURCES: u64 = 2;

/// Contents of a catalog, and `None` for an unknown title.
fn contents() -> Vec<Option<ContentKey>> {
    let mut catalog = Catalog::new();
    let copies = ["a", "b"].map(|title| copy(title, MBIT, usher_proto::model::Origin::Operator)).to_vec();
    catalog.page(NodeId(0), &CatalogPage { complete: true, copies, ..CatalogPage::default() }).expect("taken");
    let known = |name: &str| {
        let title = Title::parse(name).expect("a title");
        catalog.by_title(title.as_str(), |_| true).map(|found| catalog.key(&found))
    };
    vec![known("a"), known("b"), None]
}

fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: 0 }
}

#[derive(Clone, Debug, PartialEq)]
struct ModelSession {
    node: u32,
    rate: u64,
    reserved: u64,
    state: SessionState,
    moves: u8,
    content: Option<ContentKey>,
    expires: Option<Instant>,
    source: Option<Source>,
    fresh: bool,
}

/// A naive model of the ledger.
#[derive(Default)]
struct LedgerModel {
    sessions: BTreeMap<u128, ModelSession>,
    /// Sessions ordered away and not reported as ended: node, rate, expiry.
    leaving: BTreeMap<u128, (u32, u64, Instant)>,
    /// Clients of valid tickets without a reservation, and when these are forgotten.
    late: BTreeMap<u128, (Source, Instant)>,
    /// Further seats of running sessions: node and rate.
    surplus: BTreeMap<u128, Vec<(u32, u64)>>,
}

impl LedgerModel {
    fn promised(&self, node: u32) -> PendingLoad {
        let mut sum = PendingLoad::default();
        for one in self.sessions.values() {
            let to = match one.state {
                SessionState::Reserved => one.node,
                SessionState::Moving(to) => to.0,
                SessionState::Running => continue,
            };
            if to == node {
                sum.rate += one.rate;
                sum.tickets += 1;
            }
        }
        sum.leaving = self.leaving.values().filter(|(from, ..)| *from == node).map(|(_, rate, _)| rate).sum();
        sum
    }

    fn holding(&self, source: Source) -> Holding {
        let mut sum = Holding::default();
        for one in self.sessions.values().filter(|one| one.source == Some(source)) {
            sum.add(one.fresh, one.reserved);
        }
        sum
    }

    /// Removes a seat beside a session's place. Returns whether there was one.
    fn end_surplus(&mut self, node: u32, session: u128) -> bool {
        let seats = self.surplus.entry(session).or_default();
        let at = seats.iter().position(|(other, _)| *other == node);
        at.map(|at| seats.swap_remove(at)).is_some()
    }

    /// A session's place ends; one that also runs elsewhere continues there.
    fn leave(&mut self, session: u128) {
        let Some(one) = self.sessions.remove(&session) else { return };
        if let Some((node, rate)) = self.surplus.entry(session).or_default().pop() {
            let state = SessionState::Running;
            let (expires, fresh, reserved) = (None, false, rate);
            self.sessions.insert(session, ModelSession { node, rate, reserved, state, expires, fresh, ..one });
        }
    }

    /// An unredeemed reservation ends, and its ticket stays valid.
    fn ticket_remains(&mut self, now: Instant, session: u128) {
        let one = self.sessions.remove(&session).expect("known");
        if let Some(source) = one.source.filter(|_| one.fresh) {
            self.late.insert(session, (source, now + Duration::from_secs(70)));
        }
    }

    fn redeem_late(&mut self, now: Instant, session: u128) -> Option<Source> {
        self.late.remove(&session).filter(|(_, until)| *until > now).map(|(source, _)| source)
    }

    fn stay(&mut self, session: u128) {
        let one = self.sessions.get_mut(&session).expect("known");
        (one.state, one.expires) = (SessionState::Running, None);
        self.leaving.remove(&session);
    }

    fn ended(&mut self, node: u32, session: u128) {
        if self.leaving.get(&session).is_some_and(|(from, ..)| *from == node) {
            self.leaving.remove(&session);
        }
        if self.end_surplus(node, session) {
            return;
        }
        let Some(one) = self.sessions.get_mut(&session).filter(|one| one.node == node) else { return };
        match one.state {
            SessionState::Reserved => {}
            SessionState::Running => self.leave(session),
            SessionState::Moving(to) => (one.node, one.state) = (to.0, SessionState::Reserved),
        }
    }
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum LedgerStep {
    Reserve(u128, u32, usize, u64, u64),
    Begun(u128, u32, usize, u64, bool),
    Displace(u128),
    Rate(u128, u32, u64),
    Ended(u128, u32),
    Turned(u128, u32),
    Release(u128),
    Depart(u128, u32),
    Stays(u128),
    Retain(u32, u128),
    ReleaseAll(u32),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<LedgerStep>> {
    let (session, node) = (0..SESSIONS, 0..NODES);
    let one = prop_oneof![
        4 => (session.clone(), node.clone(), 0_usize..3, 1_u64..100, 0..SOURCES + 1).prop_map(|(s, n, w, r, c)| LedgerStep::Reserve(s, n, w, r, c)),
        4 => (session.clone(), node.clone(), 0_usize..3, 1_u64..100, prop::bool::weighted(0.2)).prop_map(|(s, n, w, r, l)| LedgerStep::Begun(s, n, w, r, l)),
        2 => session.clone().prop_map(LedgerStep::Displace),
        3 => (session.clone(), node.clone(), 0_u64..100).prop_map(|(s, n, r)| LedgerStep::Rate(s, n, r)),
        2 => (session.clone(), node.clone()).prop_map(|(s, n)| LedgerStep::Ended(s, n)),
        2 => (session.clone(), node.clone()).prop_map(|(s, n)| LedgerStep::Turned(s, n)),
        1 => session.clone().prop_map(LedgerStep::Release),
        5 => (session.clone(), node.clone()).prop_map(|(s, n)| LedgerStep::Depart(s, n)),
        1 => session.clone().prop_map(LedgerStep::Stays),
        1 => (node.clone(), session).prop_map(|(n, s)| LedgerStep::Retain(n, s)),
        1 => node.prop_map(LedgerStep::ReleaseAll),
        2 => (0_u64..3000).prop_map(LedgerStep::Wait),
    ];
    proptest::collection::vec(one, 1..120)
}

fn make(
    step: &LedgerStep,
    now: &mut Now,
    contents: &[Option<ContentKey>],
    ledger: &mut Ledger,
    model: &mut LedgerModel,
) {
    let due = now.instant + RESERVATION;
    match *step {
        LedgerStep::Reserve(session, node, content, rate, source) => {
            // The last number is a client that is not accounted.
            let source = (source < SOURCES).then_some(Source(source));
            ledger.reserve(*now, booking(session, node, contents[content], rate), source);
            let one = ModelSession {
                node,
                rate,
                reserved: rate,
                state: SessionState::Reserved,
                moves: 0,
                content: contents[content],
                expires: Some(due),
                source,
                fresh: true,
            };
            model.sessions.insert(session, one);
        }
        LedgerStep::Begun(session, node, content, rate, lists) => {
            let redeemed = ledger.handle_begun(now.instant, booking(session, node, contents[content], rate), lists);
            let late = model.redeem_late(now.instant, session);
            let before = model.sessions.get(&session).cloned();
            let elsewhere = |one: &ModelSession| match one.state {
                SessionState::Reserved => false,
                SessionState::Running => one.node != node,
                SessionState::Moving(to) => one.node != node && to.0 != node,
            };
            if let Some(other) = before.clone().filter(elsewhere) {
                let (seat, of) = if lists { (node, rate) } else { (other.node, other.rate) };
                model.end_surplus(seat, session);
                model.surplus.entry(session).or_default().push((seat, of));
                if lists {
                    assert!(!redeemed);
                    return;
                }
            }
            model.end_surplus(node, session);
            let ticket = late.is_some() || before.as_ref().is_some_and(|one| one.fresh);
            assert_eq!(redeemed, ticket);
            let rate = before.as_ref().map_or(rate, |one| rate.min(one.rate));
            let (source, moves) = before.map_or((late, 0), |one| (one.source, one.moves));
            let one = ModelSession {
                node,
                rate,
                reserved: rate,
                state: SessionState::Running,
                moves,
                content: contents[content],
                expires: None,
                source,
                fresh: false,
            };
            model.sessions.insert(session, one);
        }
        LedgerStep::Displace(session) => {
            ledger.displace(now.instant, SessionId(session));
            if model.sessions.get(&session).is_some_and(|one| one.fresh && one.source.is_some()) {
                model.ticket_remains(now.instant, session);
            }
        }
        LedgerStep::Rate(session, node, rate) => {
            ledger.handle_rate_changed(NodeId(node), SessionId(session), rate);
            let here = |one: &&mut ModelSession| one.node == node && one.state == SessionState::Running;
            if let Some(one) = model.sessions.get_mut(&session).filter(here) {
                one.reserved = rate.min(one.rate);
            }
        }
        LedgerStep::Ended(session, node) => {
            ledger.handle_ended(NodeId(node), SessionId(session));
            model.ended(node, session);
        }
        LedgerStep::Turned(session, node) => {
            ledger.handle_refused(now.instant, NodeId(node), SessionId(session));
            match model.sessions.get(&session) {
                Some(ModelSession { state: SessionState::Reserved, node: at, .. }) if *at == node => {
                    model.sessions.remove(&session);
                }
                Some(ModelSession { state: SessionState::Moving(to), .. }) if to.0 == node => model.stay(session),
                None => {
                    model.redeem_late(now.instant, session);
                }
                _ => {}
            }
        }
        LedgerStep::Release(session) => {
            assert_eq!(ledger.release(SessionId(session)), model.sessions.remove(&session).is_some());
        }
        LedgerStep::Depart(session, to) => {
            let runs = model.sessions.get_mut(&session).filter(|one| one.state == SessionState::Running);
            assert_eq!(ledger.start_move(*now, SessionId(session), NodeId(to)), runs.is_some());
            let Some(one) = runs else { return };
            (one.state, one.expires) = (SessionState::Moving(NodeId(to)), Some(due));
            one.moves = one.moves.saturating_add(1);
            model.leaving.insert(session, (one.node, one.reserved, due));
        }
        LedgerStep::Stays(session) => {
            let moving =
                matches!(model.sessions.get(&session), Some(ModelSession { state: SessionState::Moving(_), .. }));
            assert_eq!(ledger.cancel_move(SessionId(session)), moving);
            if moving {
                model.stay(session);
            }
        }
        LedgerStep::Retain(node, keep) => {
            ledger.retain(NodeId(node), |session| session.0 == keep);
            let gone = model
                .sessions
                .iter()
                .filter(|(session, one)| one.node == node && one.state != SessionState::Reserved && **session != keep);
            for session in gone.map(|(session, _)| *session).collect::<Vec<_>>() {
                model.ended(node, session);
            }
            for (session, seats) in &mut model.surplus {
                seats.retain(|(other, _)| *other != node || *session == keep);
            }
        }
        LedgerStep::ReleaseAll(node) => {
            ledger.release_all(NodeId(node));
            model.surplus.values_mut().for_each(|seats| seats.retain(|(other, _)| *other != node));
            let there = model.sessions.iter().filter(|(_, one)| one.node == node);
            for session in there.map(|(session, _)| *session).collect::<Vec<_>>() {
                model.leave(session);
            }
            let void = model.sessions.iter().filter(|(_, one)| one.state == SessionState::Moving(NodeId(node)));
            for session in void.map(|(session, _)| *session).collect::<Vec<_>>() {
                model.stay(session);
            }
            model.leaving.retain(|_, (from, ..)| *from != node);
        }
        LedgerStep::Wait(millis) => {
            *now = now.after(Duration::from_millis(millis));
            ledger.handle_timeout(now.instant);
            expire(model, now.instant);
            while let Some((session, node)) = ledger.poll_surplus(now.instant) {
                assert!(model.end_surplus(node.0, session.0), "{session} has no surplus seat at {node:?}");
            }
        }
    }
}

fn expire(model: &mut LedgerModel, now: Instant) {
    model.leaving.retain(|_, (.., until)| *until > now);
    let over = model.sessions.iter().filter(|(_, one)| one.expires.is_some_and(|at| at <= now));
    for session in over.map(|(session, _)| *session).collect::<Vec<_>>() {
        match model.sessions[&session].state {
            SessionState::Reserved => model.ticket_remains(now, session),
            SessionState::Moving(_) => model.stay(session),
            SessionState::Running => {}
        }
    }
}

fn booking(session: u128, node: u32, content: Option<ContentKey>, rate: u64) -> Booking {
    Booking { session: SessionId(session), node: NodeId(node), content, rate, purpose: Purpose::Play }
}

fn compare(ledger: &Ledger, model: &LedgerModel) -> Result<(), TestCaseError> {
    prop_assert_eq!(ledger.len(), model.sessions.len());
    for (session, one) in &model.sessions {
        let known = ledger.session(SessionId(*session)).expect("known");
        let Session { node, rate, state, moves, .. } = known;
        prop_assert_eq!((node.0, rate, state, moves), (one.node, one.rate, one.state, one.moves));
        prop_assert_eq!(ledger.content(SessionId(*session)), one.content);
    }
    for source in (0..SOURCES).map(Source) {
        prop_assert_eq!(ledger.holding(source), model.holding(source), "{:?}", source);
    }
    for node in 0..NODES {
        let fresh = |one: &&ModelSession| one.fresh && one.node == node && one.source.is_some();
        let soft: BTreeSet<Option<Source>> = model.sessions.values().filter(fresh).map(|one| one.source).collect();
        let found: BTreeSet<Option<Source>> =
            ledger.unredeemed.sources(NodeId(node)).map(|(source, _)| Some(source)).collect();
        prop_assert_eq!(found, soft, "node {}", node);
        prop_assert_eq!(ledger.pending_load(NodeId(node)), model.promised(node), "node {}", node);
        let here = || model.sessions.iter().filter(|(_, one)| one.node == node);
        let contents: BTreeSet<Option<ContentKey>> = here().map(|(_, one)| one.content).collect();
        let places = ledger
            .contents(NodeId(node))
            .iter()
            .map(|content| ledger.sessions_of(NodeId(node), *content).expect("there"));
        let places: Vec<NodeSessions<'_>> = places.collect();
        prop_assert_eq!(places.len(), contents.len());
        for place in places {
            prop_assert!(contents.contains(&place.content));
            for moves in [1, 2, u8::MAX] {
                let fit = here().filter(|(_, one)| {
                    one.content == place.content
                        && one.state == SessionState::Running
                        && one.moves < moves
                        && one.reserved == one.rate
                });
                let fit: BTreeSet<(u64, u128)> = fit.map(|(session, one)| (one.rate, *session)).collect();
                let found: BTreeSet<(u64, u128)> = place.movable(moves).map(|(one, rate)| (rate, one.0)).collect();
                prop_assert_eq!(&found, &fit);
                let least = fit.iter().find(|(rate, _)| *rate >= 50).copied();
                prop_assert_eq!(place.least(50, moves, |_| true).map(|(one, rate)| (rate, one.0)), least);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_ledger_equals_the_model(steps in steps()) {
        let (mut now, contents) = (start(), contents());
        let (mut ledger, mut model) = (Ledger::default(), LedgerModel::default());
        for step in &steps {
            make(step, &mut now, &contents, &mut ledger, &mut model);
            compare(&ledger, &model)?;
        }
        // Nothing leaks: in the end only running sessions remain, and then none.
        make(&LedgerStep::Wait(5000), &mut now, &contents, &mut ledger, &mut model);
        compare(&ledger, &model)?;
        prop_assert_eq!(ledger.next_timeout(), None);
        prop_assert_eq!(ledger.poll_surplus(now.instant), None);
        for node in 0..NODES {
            prop_assert_eq!(ledger.pending_load(NodeId(node)), PendingLoad::default());
            for session in 0..SESSIONS {
                ledger.handle_ended(NodeId(node), SessionId(session));
            }
            prop_assert!(ledger.contents(NodeId(node)).is_empty());
        }
        prop_assert!(ledger.is_empty());
        for source in (0..SOURCES).map(Source) {
            prop_assert_eq!(ledger.holding(source), Holding::default());
        }
    }
}

#[test]
fn a_session_that_started_elsewhere_moves_there() {
    let (now, mut ledger) = (start(), Ledger::default());
    ledger.reserve(now, booking(1, 0, None, 8), None);
    assert!(ledger.handle_begun(now.instant, booking(1, 1, None, 8), false));
    assert_eq!((ledger.pending_load(NodeId(0)), ledger.pending_load(NodeId(1))), Default::default());
    assert_eq!(ledger.handle_ended(NodeId(0), SessionId(1)), None, "the seat was never taken");
    assert_eq!(ledger.handle_ended(NodeId(1), SessionId(1)), Some(8));
}

#[test]
fn a_lowered_rate_is_what_a_session_frees_and_its_whole_rate_what_it_needs() {
    let (now, mut ledger) = (start(), Ledger::default());
    let session = SessionId(1);
    ledger.handle_begun(now.instant, booking(1, 0, None, 8), false);
    ledger.handle_rate_changed(NodeId(1), session, 1);
    assert_eq!(ledger.session(session).map(|one| one.rate), Some(8), "it does not run there");
    let movable = |ledger: &Ledger, moves: Option<u8>| {
        let content = ledger.contents(NodeId(0))[0];
        let sessions = ledger.sessions_of(NodeId(0), content).expect("one");
        sessions.movable(moves).collect::<Vec<_>>()
    };
    assert_eq!(movable(&ledger, Some(2)), [(session, 8)]);
    ledger.handle_rate_changed(NodeId(0), session, 3);
    assert_eq!((movable(&ledger, Some(2)), movable(&ledger, None)), (vec![], vec![(session, 8)]));
    assert!(ledger.start_move(now, session, NodeId(1)));
    assert_eq!((ledger.pending_load(NodeId(0)).leaving, ledger.pending_load(NodeId(1)).rate), (3, 8));
    assert!(ledger.cancel_move(session));
    assert_eq!(ledger.handle_ended(NodeId(0), session), Some(3));
}

#[test]
fn the_deadline_is_not_before_anything_expires() {
    let (now, mut ledger) = (start(), Ledger::default());
    ledger.reserve(now, booking(1, 0, None, 8), None);
    let later = now.after(Duration::from_secs(1));
    ledger.reserve(later, booking(2, 0, None, 8), None);
    assert_eq!(ledger.next_timeout(), Some(now.instant + RESERVATION));
    assert_eq!(ledger.handle_timeout(now.instant + RESERVATION - Duration::from_nanos(1)), 0);
    assert_eq!(ledger.handle_timeout(now.instant + RESERVATION), 1);
    assert_eq!(ledger.next_timeout(), Some(later.instant + RESERVATION));
}
