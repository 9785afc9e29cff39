//! Several concurrent masters, each knowing only its own tickets, over nodes with admission control.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::core::test_cluster::{copy, hello};

const NODES: usize = 6;
const TITLES: usize = 30;
const CAPACITY: u64 = 400 * MBIT;

/// One node: its running sessions, and the updates in flight with their arrival times.
#[derive(Default)]
struct GatedNode {
    running: BTreeMap<SessionId, (usize, u64)>,
    in_flight: VecDeque<(u64, Sessions)>,
}

impl GatedNode {
    fn committed(&self) -> u64 {
        self.running.len() as u64 * RATE
    }

    fn send_update(&mut self, millis: u64, change: impl FnOnce(&mut Sessions)) {
        let (committed, uptime_ms) = (Bitrate(self.committed()), 1_000_000 + millis);
        let mut sessions = Sessions { complete: true, committed, uptime_ms, ..Sessions::default() };
        change(&mut sessions);
        self.in_flight.push_back((millis + 150, sessions));
    }
}

/// Result of a run: tickets, and those refused by nodes.
#[derive(Debug)]
struct RunResult {
    tickets: u32,
    refused: u32,
}

/// Three masters configured for this number; one minute of arrivals near the nodes' total capacity.
fn run(masters: u64, seed: u64) -> RunResult {
    let mut rng = SmallRng::seed_from_u64(seed);
    let start = Now { instant: std::time::Instant::now(), unix_ms: 0 };
    let names: Vec<String> = (0..TITLES).map(|i| format!("t{i}")).collect();
    let settings = Settings { masters, moves: false, ..Settings::default() };
    let mut clusters: Vec<(Cluster, Vec<AttachmentId>)> = (0..3)
        .map(|_| {
            let mut cluster = Cluster::new(settings.clone());
            let attachments: Vec<AttachmentId> =
                (0..NODES).map(|i| cluster.handle_attach(start, hello(i + 1, CAPACITY)).expect("attached")).collect();
            for (i, attachment) in attachments.iter().enumerate() {
                let mine = names.iter().enumerate().filter(|(title, _)| (0..3).any(|k| (title + k * 3) % NODES == i));
                let copies = mine.map(|(_, name)| copy(name, RATE, usher_proto::model::Origin::Operator)).collect();
                let page = CatalogPage { complete: true, copies, ..CatalogPage::default() };
                cluster.handle_page(*attachment, &page).expect("taken");
            }
            (cluster, attachments)
        })
        .collect();
    let mut gated_nodes: Vec<GatedNode> = (0..NODES).map(|_| GatedNode::default()).collect();
    let mut dialling: VecDeque<(u64, usize, SessionId, usize)> = VecDeque::new();
    let mut outcome = RunResult { tickets: 0, refused: 0 };
    // Sessions last 5 s on average: 60 a second are 300 sessions of 8 Mbit/s, the total capacity.
    for millis in (0..60_000).step_by(10) {
        let now = start.after(Duration::from_millis(millis));
        for (node, gated) in gated_nodes.iter_mut().enumerate() {
            let over: Vec<SessionId> =
                gated.running.iter().filter(|(_, (_, ends))| *ends <= millis).map(|(session, _)| *session).collect();
            for session in over {
                gated.running.remove(&session);
                gated.send_update(millis, |sessions| sessions.ended.push(session));
            }
            let report = millis % 1000 == node as u64 * 100;
            while let Some((_, sessions)) = gated.in_flight.pop_front_if(|(at, _)| *at <= millis) {
                for (cluster, attachments) in &mut clusters {
                    cluster.handle_sessions(now, attachments[node], sessions.clone()).expect("taken");
                }
            }
            if report {
                let committed = Bitrate(gated.committed());
                let (sequence, uptime_ms) = (millis + 1, 1_000_000 + millis);
                let report = Report { sequence, uptime_ms, committed, egress: committed, ..Report::default() };
                for (cluster, attachments) in &mut clusters {
                    cluster.handle_report(now, attachments[node], report.clone()).expect("taken");
                }
            }
        }
        for (cluster, _) in &mut clusters {
            cluster.handle_timeout(now, &mut rng);
        }
        if rng.random_range(0..1000) < 600 {
            let title = rng.random_range(0..TITLES);
            let session = SessionId(rng.random());
            let cluster = &mut clusters[rng.random_range(0..3)].0;
            let play = play(&names[title]);
            if let Ok(decision) = cluster.resolve(now, session, &SeatRequest::from(&play), &mut rng) {
                outcome.tickets += 1;
                dialling.push_back((millis + 400, decision.first.0 as usize, session, title));
            }
        }
        while let Some((_, node, session, title)) = dialling.pop_front_if(|(at, ..)| *at <= millis) {
            let gated = &mut gated_nodes[node];
            if gated.committed() + RATE > CAPACITY {
                outcome.refused += 1;
                let limit = Some(Bitrate(CAPACITY));
                gated.send_update(millis, |sessions| {
                    sessions.turned.push(Turned { session, code: Code::NoCapacity, limit })
                });
            } else {
                let ends = millis + rng.random_range(0..10_000);
                gated.running.insert(session, (title, ends));
                gated.send_update(millis, |sessions| sessions.begun.push(begun(session, &names[title], RATE)));
            }
            assert!(gated.committed() <= CAPACITY);
        }
    }
    outcome
}

#[test]
fn masters_that_know_their_number_rarely_overbook_nodes() {
    let runs = |masters| {
        (1..=2)
            .map(|seed| run(masters, seed))
            .fold((0, 0), |(tickets, refused), outcome| (tickets + outcome.tickets, refused + outcome.refused))
    };
    let ((tickets, refused), (unaware_tickets, unaware)) = (runs(3), runs(1));
    assert!(tickets > 4000, "{tickets}");
    assert!(refused * 50 <= tickets, "{refused} of {tickets}");
    assert!(unaware * tickets >= refused * unaware_tickets, "{unaware} of {unaware_tickets}, {refused} of {tickets}");
}
