//! A small simulated cluster for tests of the core: the test writes every message of every node and controls the clock.

use std::time::{Duration, Instant};

use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    Bitrate, BootId, ContentId, NodeName, SessionId, Title,
    model::{
        Begun, CatalogCopy, CatalogPage, Equipment, Hello, Mode, Origin, Presence, Range, Report, Requirements,
        Resolve, Sessions, What,
    },
    ticket::Purpose,
};

use super::{
    NodeId, Now,
    cluster::{Cluster, Decision, Refused, SeatRequest, Settings},
    ledger::Source,
    roster::AttachmentId,
};

/// A million bit/s.
pub(super) const MBIT: u64 = 1_000_000;

/// Default rate of a title, bit/s.
pub(super) const RATE: u64 = 8 * MBIT;

/// Uptime of the nodes at the start of a test: past warm-up.
const UPTIME: Duration = Duration::from_secs(1000);

/// A cluster, its nodes and its clock.
pub(super) struct TestCluster {
    pub(super) cluster: Cluster,
    pub(super) now: Now,
    pub(super) rng: SmallRng,
    pub(super) attachments: Vec<AttachmentId>,
    start: Instant,
    sessions: u128,
    reports: u64,
    /// Last committed rate of each node, bit/s.
    committed: Vec<u64>,
}

/// A node's presence.
pub(super) fn presence(draining: bool) -> Presence {
    Presence {
        drain_left: std::time::Duration::ZERO,
        addresses: vec![([127, 0, 0, 1], 1).into()],
        certificates: vec![[0; 32]],
        draining,
    }
}

/// First message of a node: `node-1` for 1, in zone `z1`.
pub(super) fn hello(number: usize, capacity: u64) -> Hello {
    Hello {
        node: NodeName::parse(&format!("node-{number}")).expect("a name"),
        boot: BootId(number as u128),
        version: String::new(),
        zone: format!("z{number}"),
        capacity: Bitrate(capacity),
        presence: presence(false),
        attachment: 1,
        equipment: Equipment::default(),
        replica_bytes: 0,
    }
}

/// Content of a title.
pub(super) fn content(title: &str) -> ContentId {
    let mut bytes = title.bytes().cycle();
    ContentId(std::array::from_fn(|_| bytes.next().unwrap_or(0)))
}

/// A copy of a title.
pub(super) fn copy(title: &str, rate: u64, origin: Origin) -> CatalogCopy {
    CatalogCopy {
        title: Title::parse(title).expect("a title"),
        volume: 0,
        content: Some(content(title)),
        size: 100,
        modified_ms: 0,
        bitrate: Bitrate(rate),
        duration_ms: 0,
        media_type: "video/mp4".into(),
        streamable: true,
        origin,
    }
}

impl TestCluster {
    /// Nodes of these capacities, warm and empty. Their joining moves no sessions.
    pub(super) fn new(capacities: &[u64]) -> Self {
        Self::with(Settings { rebalance: false, ..Settings::default() }, capacities)
    }

    /// The same with other settings.
    pub(super) fn with(settings: Settings, capacities: &[u64]) -> Self {
        let start = Instant::now();
        let mut test = Self {
            cluster: Cluster::new(settings),
            now: Now { instant: start, unix_ms: 0 },
            rng: SmallRng::seed_from_u64(1),
            attachments: Vec::new(),
            start,
            sessions: 0,
            reports: 0,
            committed: vec![0; capacities.len()],
        };
        for (capacity, number) in capacities.iter().zip(1..) {
            let attachment = test.cluster.handle_attach(test.now, hello(number, *capacity)).expect("attached");
            test.attachments.push(attachment);
            test.copies(number - 1, Vec::new());
        }
        test.report_all();
        test
    }

    /// Figure 4 of the system of 2000: three nodes of 1 Gbit/s and nine titles of 8 Mbit/s.
    pub(super) fn figure_4() -> Self {
        let mut test = Self::new(&[1000 * MBIT; 3]);
        for (node, titles) in [(0, "A B C D"), (1, "B E F G H"), (2, "B E H J")] {
            test.titles(node, &titles.split(' ').collect::<Vec<_>>());
        }
        test
    }

    /// Adds a node that attached by other means.
    pub(super) fn add_attachment(&mut self, attachment: AttachmentId) {
        self.attachments.push(attachment);
        self.committed.push(0);
    }

    pub(super) fn titles(&mut self, node: usize, titles: &[&str]) {
        self.copies(node, titles.iter().map(|title| copy(title, RATE, Origin::Operator)).collect());
    }

    pub(super) fn copies(&mut self, node: usize, copies: Vec<CatalogCopy>) {
        let page = CatalogPage { complete: true, copies, ..CatalogPage::default() };
        assert!(self.cluster.handle_page(self.attachments[node], &page).expect("taken").is_some());
    }

    /// A fresh session id.
    pub(super) fn session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    pub(super) fn resolve(&mut self, title: &str, change: impl FnOnce(&mut Resolve)) -> Result<Decision, Refused> {
        let session = self.session();
        let mut resolve = play(title);
        change(&mut resolve);
        self.cluster.resolve(self.now, session, &SeatRequest::from(&resolve), &mut self.rng)
    }

    /// A viewer's request of a client.
    pub(super) fn resolve_as(&mut self, source: u64, title: &str) -> Result<Decision, Refused> {
        let session = self.session();
        let resolve = play(title);
        let ask = SeatRequest { source: Some(Source(source)), ..SeatRequest::from(&resolve) };
        self.cluster.resolve(self.now, session, &ask, &mut self.rng)
    }

    /// A client redeems the first seat of a decision.
    pub(super) fn redeem(&mut self, decision: &Decision, title: &str) {
        self.begin(decision.first.index(), decision.session, title, decision.rate.0);
    }

    pub(super) fn uptime(&self) -> Duration {
        UPTIME + self.now.instant.duration_since(self.start)
    }

    /// A node reports, as modified by `change`.
    pub(super) fn report(&mut self, node: usize, change: impl FnOnce(&mut Report)) {
        self.reports += 1;
        let committed = Bitrate(self.committed[node]);
        let uptime_ms = self.uptime().as_millis() as u64;
        let mut report =
            Report { sequence: self.reports, uptime_ms, committed, egress: committed, ..Report::default() };
        change(&mut report);
        self.committed[node] = report.committed.0;
        self.cluster.handle_report(self.now, self.attachments[node], report).expect("taken");
    }

    /// A node sends session updates, as modified by `change`.
    pub(super) fn send_sessions(&mut self, node: usize, change: impl FnOnce(&mut Sessions)) {
        let committed = Bitrate(self.committed[node]);
        let uptime_ms = self.uptime().as_millis() as u64;
        let mut sessions = Sessions { complete: true, uptime_ms, committed, ..Sessions::default() };
        change(&mut sessions);
        self.committed[node] = sessions.committed.0;
        self.cluster.handle_sessions(self.now, self.attachments[node], sessions).expect("taken");
    }

    /// A session starts on a node.
    pub(super) fn begin(&mut self, node: usize, session: SessionId, title: &str, rate: u64) {
        self.send_sessions(node, |sessions| {
            sessions.begun.push(begun(session, title, rate));
            sessions.committed.0 += rate;
        });
    }

    /// A session of this rate ends on a node.
    pub(super) fn end(&mut self, node: usize, session: SessionId, rate: u64) {
        self.send_sessions(node, |sessions| {
            sessions.ended.push(session);
            sessions.committed.0 -= rate;
        });
    }

    /// Starts `count` sessions on a node without reservations.
    pub(super) fn run(&mut self, node: usize, title: &str, rate: u64, count: usize) -> Vec<SessionId> {
        (0..count)
            .map(|_| {
                let session = self.session();
                self.begin(node, session, title, rate);
                session
            })
            .collect()
    }

    /// Every node repeats its last report.
    pub(super) fn report_all(&mut self) {
        for node in 0..self.attachments.len() {
            self.report(node, |_| {});
        }
    }

    /// Every node repeats its last report, with a megabyte of room for copies.
    pub(super) fn report_with_room(&mut self) {
        for node in 0..self.attachments.len() {
            self.report(node, |report| report.replica_free = 1_000_000);
        }
    }

    /// Advances time without any message.
    pub(super) fn wait(&mut self, by: Duration) {
        self.now = self.now.after(by);
        self.cluster.handle_timeout(self.now, &mut self.rng);
    }

    /// Advances time by seconds; every node reports once per second.
    pub(super) fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.now = self.now.after(Duration::from_secs(1));
            self.report_all();
            self.cluster.handle_timeout(self.now, &mut self.rng);
        }
    }

    /// Bit/s in use on a node.
    pub(super) fn level(&self, node: usize) -> u64 {
        self.cluster.load(self.now, self.id(node)).0
    }

    /// Free bit/s of a node.
    pub(super) fn headroom(&self, node: usize) -> u64 {
        self.cluster.load(self.now, self.id(node)).1
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.attachments[node].node
    }
}

/// A viewer's request.
pub(super) fn play(title: &str) -> Resolve {
    Resolve {
        what: What::Title(Title::parse(title).expect("a title")),
        purpose: Purpose::Play,
        range: Range::default(),
        mode: Mode::Redirect,
        exclude: Vec::new(),
        zone: String::new(),
        rate: None,
        failed: Vec::new(),
        needs: Requirements::default(),
    }
}

/// A viewer's session start.
pub(super) fn begun(session: SessionId, title: &str, rate: u64) -> Begun {
    let title_name = Title::parse(title).expect("a title");
    Begun { session, title: title_name, content: Some(content(title)), rate: Bitrate(rate), purpose: Purpose::Play }
}
