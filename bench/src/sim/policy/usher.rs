//! The master's own core, driven by the simulation instead of by gRPC. Translates between the two
//! and decides nothing. Its ablations are the same core with parts switched off.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::SmallRng};
use usher_master::core::{
    NodeId, Now,
    catalog::ContentKey,
    cluster::{self, Cluster, Settings},
    moves::SessionMove,
    roster::AttachmentId,
};
use usher_proto::{
    Bitrate, BootId, Code, ContentId, NodeName, SessionId, Title as Name,
    model::{
        Begun, CatalogCopy, CatalogPage, Equipment, Failed, Hello, Origin, Presence, Requirements, Sessions, Turned,
        What,
    },
    ticket::Purpose,
};

use super::{
    Answer, Ask, Change, Copied, CopyStage, Delta, Held, Join, NodeIndex, Order, Policy, Report, SessionNumber, Setup,
    Title,
};
use crate::sim::units::Time;

/// The complete core.
pub(super) fn make(setup: Setup) -> Box<dyn Policy> {
    Box::new(Usher::new(setup, Settings::default()))
}

/// Without copies.
pub(super) fn moves(setup: Setup) -> Box<dyn Policy> {
    Box::new(Usher::new(setup, Settings { replication: false, ..Settings::default() }))
}

/// Without copies and moves.
pub(super) fn margin(setup: Setup) -> Box<dyn Policy> {
    Box::new(Usher::new(setup, Settings { replication: false, moves: false, ..Settings::default() }))
}

struct Known {
    link: Option<AttachmentId>,
    hello: Hello,
    titles: Vec<CatalogCopy>,
    /// Its attachment is to be tried again: the one before still has its lease.
    waits: bool,
}

struct Usher {
    start: Instant,
    cluster: Cluster,
    rng: SmallRng,
    nodes: Vec<Option<Known>>,
    titles: Vec<Option<CatalogCopy>>,
    /// Ordered copies, by title and target.
    copies: HashMap<(Title, NodeIndex), ContentKey>,
    needs: Requirements,
}

fn name(title: Title) -> Name {
    Name::parse(&format!("t{title}")).expect("a letter and digits")
}

fn number(name: &Name) -> Option<Title> {
    name.as_str().strip_prefix('t')?.parse().ok()
}

fn node_name(node: NodeIndex) -> NodeName {
    NodeName::parse(&format!("n{node}")).expect("a letter and digits")
}

fn id(session: SessionNumber) -> SessionId {
    SessionId(session.into())
}

fn copy(held: &Held, origin: Origin) -> CatalogCopy {
    let mut content = [0; 32];
    content[..4].copy_from_slice(&held.title.to_be_bytes());
    CatalogCopy {
        title: name(held.title),
        volume: 0,
        content: Some(ContentId(content)),
        size: held.bytes,
        modified_ms: 0,
        bitrate: Bitrate(held.rate),
        duration_ms: 0,
        media_type: "video/mp4".into(),
        streamable: true,
        origin,
    }
}

impl Usher {
    fn new(setup: Setup, settings: Settings) -> Self {
        let settings = Settings {
            masters: setup.masters.into(),
            report_interval: Duration::from_micros(setup.report_interval),
            ..settings
        };
        Self {
            start: Instant::now(),
            cluster: Cluster::new(settings),
            rng: SmallRng::seed_from_u64(setup.seed ^ (u64::from(setup.index) << 32)),
            nodes: Vec::new(),
            titles: vec![None; setup.titles as usize],
            copies: HashMap::new(),
            needs: Requirements::default(),
        }
    }

    fn title(&self, key: ContentKey) -> Option<Title> {
        number(self.cluster.described(key)?.title)
    }

    fn now(&self, now: Time) -> Now {
        Now { instant: self.start + Duration::from_micros(now), unix_ms: now / 1000 }
    }

    fn link(&self, node: NodeIndex) -> Option<AttachmentId> {
        self.nodes.get(node as usize)?.as_ref()?.link
    }

    fn attach(&mut self, now: Time, node: NodeIndex) {
        let now = self.now(now);
        let Some(known) = self.nodes[node as usize].as_mut() else { return };
        known.hello.attachment += 1;
        let Ok(link) = self.cluster.handle_attach(now, known.hello.clone()) else {
            known.waits = true;
            return;
        };
        (known.link, known.waits) = (Some(link), false);
        let copies = known.titles.clone();
        let page = CatalogPage { restart: true, complete: true, copies, ..CatalogPage::default() };
        self.cluster.handle_page(link, &page).expect("a simulated library is small");
    }
}

impl Policy for Usher {
    fn joined(&mut self, now: Time, node: NodeIndex, join: &Join<'_>) {
        if self.nodes.len() <= node as usize {
            self.nodes.resize_with(node as usize + 1, || None);
        }
        let origin = |held: &Held| if held.replica { Origin::Replica } else { Origin::Operator };
        let titles: Vec<_> = join.titles.iter().map(|held| copy(held, origin(held))).collect();
        for (held, copy) in join.titles.iter().zip(&titles) {
            self.titles[held.title as usize].get_or_insert_with(|| copy.clone());
        }
        let boot = BootId((u128::from(node) << 64) | u128::from(join.boot));
        let hello = Hello {
            node: node_name(node),
            boot,
            version: String::new(),
            zone: format!("z{}", join.zone),
            capacity: Bitrate(join.capacity),
            presence: Presence {
                drain_left: Duration::ZERO,
                addresses: vec![([127, 0, 0, 1], 1).into()],
                certificates: vec![],
                draining: false,
            },
            attachment: 0,
            equipment: Equipment::default(),
            replica_bytes: join.replica_bytes,
        };
        let before = self.nodes[node as usize].take();
        let attachment = before.filter(|known| known.hello.boot == boot).map_or(0, |known| known.hello.attachment);
        let hello = Hello { attachment, ..hello };
        self.nodes[node as usize] = Some(Known { link: None, hello, titles, waits: false });
        self.attach(now, node);
    }

    fn left(&mut self, now: Time, node: NodeIndex) {
        let now = self.now(now);
        if let Some(known) = self.nodes[node as usize].as_mut() {
            known.waits = false;
            if let Some(link) = known.link.take() {
                self.cluster.handle_detach(now, link);
            }
        }
    }

    fn draining(&mut self, now: Time, node: NodeIndex) {
        let now = self.now(now);
        let Some(known) = self.nodes[node as usize].as_mut() else { return };
        known.hello.presence.draining = true;
        if let Some(link) = known.link {
            self.cluster.handle_presence(now, link, known.hello.presence.clone());
        }
    }

    fn report(&mut self, now: Time, node: NodeIndex, report: &Report) {
        let Some(link) = self.link(node) else { return };
        let now = self.now(now);
        let report = usher_proto::model::Report {
            sequence: report.sequence,
            uptime_ms: report.uptime_ms,
            egress: Bitrate(report.egress.saturating_sub(report.background)),
            elastic: Bitrate(0),
            committed: Bitrate(report.committed),
            sessions: report.sessions,
            background: Bitrate(report.background),
            demand: Bitrate(report.demand),
            delivered: Bitrate(report.delivered.min(report.demand)),
            replica_free: report.replica_free,
            ..usher_proto::model::Report::default()
        };
        // One that is late or old is left out, as the real master does.
        let _ignored = self.cluster.handle_report(now, link, report);
    }

    fn delta(&mut self, now: Time, node: NodeIndex, delta: &Delta) {
        let Some(link) = self.link(node) else { return };
        let now = self.now(now);
        let mut sessions = Sessions {
            complete: true,
            uptime_ms: delta.uptime_ms,
            committed: Bitrate(delta.committed),
            ..Sessions::default()
        };
        for change in &delta.changes {
            match *change {
                Change::Begun { session, title, rate } => sessions.begun.push(Begun {
                    session: id(session),
                    title: name(title),
                    content: self.titles[title as usize].as_ref().and_then(|copy| copy.content),
                    rate: Bitrate(rate),
                    purpose: Purpose::Play,
                }),
                Change::Ended { session } => sessions.ended.push(id(session)),
                Change::Refused { session, limit } => sessions.turned.push(Turned {
                    session: id(session),
                    code: if limit.is_some() { Code::NoCapacity } else { Code::Draining },
                    limit: limit.map(Bitrate),
                }),
            }
        }
        // Of a start or an attachment that is over.
        let _ignored = self.cluster.handle_sessions(now, link, sessions);
    }

    fn resolve(&mut self, now: Time, ask: &Ask<'_>) -> Answer {
        let now = self.now(now);
        let silent = ask.exclude.iter().filter(|node| !ask.full.contains(node));
        let exclude: Vec<NodeName> = silent.map(|node| node_name(*node)).collect();
        let full = ask.full.iter().map(|node| Failed::new(node_name(*node), Code::NoCapacity));
        let failed: Vec<Failed> = full.collect();
        let zone = format!("z{}", ask.zone);
        let ask = (id(ask.session), What::Title(name(ask.title)));
        let (session, what) = (ask.0, &ask.1);
        let ask = cluster::SeatRequest {
            what,
            purpose: Purpose::Play,
            range: Default::default(),
            rate: None,
            exclude: &exclude,
            zone: &zone,
            needs: &self.needs,
            failed: &failed,
            tag: 0,
            // The real client waits for the probe; a simulated one has gone by then.
            unsure: true,
            viewer: None,
            // Every session is a client of its own.
            source: None,
        };
        match self.cluster.resolve(now, session, &ask, &mut self.rng) {
            Ok(decision) => Answer::Seat {
                node: decision.first.0,
                alternates: decision.alternates.iter().flatten().map(|node| node.0).collect(),
                burst: decision.burst,
            },
            Err(_) => Answer::Refused,
        }
    }

    fn hint(&mut self, now: Time, node: NodeIndex, _client: u64) {
        let now = self.now(now);
        self.cluster.handle_hint(now, &node_name(node), true);
    }

    fn tick(&mut self, now: Time) {
        let waiting: Vec<NodeIndex> = (0..)
            .zip(&self.nodes)
            .filter(|(_, known)| known.as_ref().is_some_and(|known| known.waits))
            .map(|(node, _)| node)
            .collect();
        for node in waiting {
            self.attach(now, node);
        }
        let now = self.now(now);
        if self.cluster.next_timeout().is_some_and(|deadline| deadline <= now.instant) {
            self.cluster.handle_timeout(now, &mut self.rng);
        }
        while self.cluster.sweep() {}
    }

    fn deadline(&self) -> Option<Time> {
        let deadline = self.cluster.next_timeout()?.saturating_duration_since(self.start);
        Some(u64::try_from(deadline.as_micros()).unwrap_or(Time::MAX) + 1)
    }

    fn moved(&mut self, _now: Time, session: SessionNumber, ok: bool) {
        self.cluster.handle_move_answer(id(session), ok);
    }

    fn copied(&mut self, now: Time, copied: &Copied) {
        let now = self.now(now);
        let Some(link) = self.link(copied.to) else { return };
        let Some(known) = self.titles[copied.title as usize].clone() else { return };
        let origin = match copied.stage {
            CopyStage::Serving => Some(Origin::Growing),
            CopyStage::Whole => Some(Origin::Replica),
            CopyStage::Failed | CopyStage::Evicted => None,
        };
        let mut page = CatalogPage { complete: true, ..CatalogPage::default() };
        match origin {
            Some(origin) => page.copies.push(CatalogCopy { origin, ..known }),
            None => page.removals.push((known.title, 0)),
        }
        self.cluster.handle_page(link, &page).expect("a simulated library is small");
        if matches!(copied.stage, CopyStage::Whole | CopyStage::Failed)
            && let Some(key) = self.copies.remove(&(copied.title, copied.to))
        {
            self.cluster.handle_copy_answer(now, key, NodeId(copied.to), copied.stage == CopyStage::Whole);
        }
    }

    fn probed(&mut self, now: Time, node: NodeIndex, alive: bool) {
        let now = self.now(now);
        if let Some(link) = self.link(node).filter(|_| alive) {
            self.cluster.handle_probe_answer(now, link);
        }
    }

    fn orders(&mut self, orders: &mut Vec<Order>) {
        for order in self.cluster.poll_orders() {
            orders.extend(match order {
                cluster::Order::Probe(node) => Some(Order::Probe { node: node.0 }),
                cluster::Order::Move(SessionMove { session, from, to, .. }) => {
                    u64::try_from(session.0).ok().map(|session| Order::Move { session, from: from.0, to: to.0 })
                }
                cluster::Order::Replicate { key, from, to, rate, .. } => self.title(key).map(|title| {
                    self.copies.insert((title, to.0), key);
                    Order::Replicate { title, from: from.0, to: to.0, rate }
                }),
                cluster::Order::Evict { key, node } => {
                    self.title(key).map(|title| Order::Evict { node: node.0, title })
                }
                // No simulated client gets wrong bytes, watches a feed or uses two seats for long, and every simulated
                // address is good.
                cluster::Order::EndSurplus { .. }
                | cluster::Order::DialBack(_)
                | cluster::Order::EndRevoked { .. }
                | cluster::Order::Recheck { .. }
                | cluster::Order::Relay { .. }
                | cluster::Order::NoRelay { .. }
                | cluster::Order::EndPublisher(_) => None,
            });
        }
    }
}
