//! The cost of a decision (look up, choose, reserve; no signing) and of a page: at 100,000 titles, each on 3 of 100
//! nodes; at a million titles, each on 3 of 10,000 nodes; and when a session must be moved to free capacity, among
//! 100,000 running on 100 nodes. Prints, beside the usual table, the median, the 99th percentile and the allocations of
//! single decisions. `cargo bench -p usher-master --bench decision`

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_master::core::{
    Now,
    cluster::{Cluster, Order, SeatRequest},
    journal::Selection,
    roster::AttachmentId,
};
use usher_proto::{
    Bitrate, BootId, ContentId, NodeName, SessionId, Title,
    model::{
        Begun, CatalogCopy, CatalogPage, Equipment, Hello, Origin, Presence, Range, Report, Requirements, Sessions,
        What,
    },
    ticket::Purpose,
};

/// Counts the allocations of each decision.
#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const RATE: u64 = 8_000_000;

/// Size of a cluster.
#[derive(Clone, Copy)]
struct Size {
    titles: u32,
    nodes: u32,
}

const USUAL: Size = Size { titles: 100_000, nodes: 100 };
const LARGE: Size = Size { titles: 1_000_000, nodes: 10_000 };
const HOLDERS: u32 = 3;

/// Enough that the bench never fills the cluster.
const ENDLESS: u64 = 100_000_000_000_000;

fn main() {
    divan::main();
    percentiles("plain", &mut fixture(LARGE, ENDLESS), 200_000, Fixture::decide);
    percentiles("moved", &mut full(), 20_000, Fixture::move_one);
}

/// Times single decisions.
fn percentiles(name: &str, fixture: &mut Fixture, count: usize, decide: impl Fn(&mut Fixture, &What)) {
    let mut pick = SmallRng::seed_from_u64(3);
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let what = What::Title(title(pick.random_range(0..fixture.size.titles)));
            let start = Instant::now();
            decide(fixture, &what);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let [p50, p99, most] = [count / 2, count * 99 / 100, count - 1].map(|at| times[at]);
    println!("{name}: {count} decisions, p50 {p50:?}, p99 {p99:?}, longest {most:?}");
}

fn title(i: u32) -> Title {
    Title::parse(&format!("films/series-{:03}/episode-{i:06}.mp4", i % 500)).expect("a title")
}

fn content(i: u32) -> ContentId {
    let mut id = [0; 32];
    SmallRng::seed_from_u64(i.into()).fill(&mut id[..]);
    ContentId(id)
}

fn copy(i: u32) -> CatalogCopy {
    CatalogCopy {
        title: title(i),
        volume: 0,
        content: Some(content(i)),
        size: 1_000_000_000,
        modified_ms: 0,
        bitrate: Bitrate(RATE),
        duration_ms: 1,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: Origin::Operator,
    }
}

struct Fixture {
    size: Size,
    cluster: Cluster,
    attachments: Vec<AttachmentId>,
    now: Now,
    rng: SmallRng,
    sessions: u128,
}

fn hello(name: &str, boot: u128, zone: String, capacity: u64) -> Hello {
    Hello {
        node: NodeName::parse(name).expect("a name"),
        boot: BootId(boot),
        version: String::new(),
        zone,
        capacity: Bitrate(capacity),
        presence: Presence {
            drain_left: std::time::Duration::ZERO,
            addresses: vec![([127, 0, 0, 1], 1).into()],
            certificates: vec![],
            draining: false,
        },
        attachment: 1,
        equipment: Equipment::default(),
        replica_bytes: 0,
    }
}

fn fixture(size: Size, capacity: u64) -> Fixture {
    let now = Now { instant: Instant::now(), unix_ms: 0 };
    let mut cluster = Cluster::default();
    let attachments: Vec<_> = (0..size.nodes)
        .map(|i| {
            let hello = hello(&format!("node-{i}"), i.into(), format!("z{}", i % 3), capacity);
            let attachment = cluster.handle_attach(now, hello).expect("attached");
            // Warm, and empty.
            let report = Report { sequence: 1, uptime_ms: 1_000_000, ..Report::default() };
            cluster.handle_report(now, attachment, report).expect("taken");
            attachment
        })
        .collect();
    for i in 0..size.titles {
        let page = CatalogPage { complete: true, copies: vec![copy(i)], ..CatalogPage::default() };
        for k in 0..HOLDERS {
            cluster.handle_page(attachments[holder(size, i, k)], &page).expect("taken");
        }
    }
    Fixture { size, cluster, attachments, now, rng: SmallRng::seed_from_u64(1), sessions: 0 }
}

/// Any two nodes have titles in common.
fn holder(size: Size, title: u32, k: u32) -> usize {
    let title = title % size.titles;
    ((title.wrapping_mul(7919) + k * (1 + title % 31)) % size.nodes) as usize
}

/// A hundred nodes with a thousand sessions each: nine of ten are full, and every title is requested of full ones.
fn full() -> Fixture {
    const EACH: u32 = 1000;
    let mut fixture = fixture(USUAL, u64::from(EACH + 5) * RATE);
    let nodes = USUAL.nodes;
    let mut running = vec![0; nodes as usize];
    let mut begun = vec![Vec::new(); nodes as usize];
    for i in 0..2 * nodes * EACH {
        let node = holder(USUAL, i, i % HOLDERS);
        let most = if node.is_multiple_of(10) { EACH - 300 } else { EACH + 5 };
        if running[node] < most {
            running[node] += 1;
            fixture.sessions += 1;
            let (session, i) = (session(fixture.sessions), i % USUAL.titles);
            let (title, content) = (title(i), Some(content(i)));
            begun[node].push(Begun { session, title, content, rate: Bitrate(RATE), purpose: Purpose::Play });
        }
    }
    for ((attachment, begun), running) in fixture.attachments.iter().zip(begun).zip(running) {
        let committed = Bitrate(u64::from(running) * RATE);
        let said = Sessions { complete: true, uptime_ms: 1_000_000, committed, begun, ..Sessions::default() };
        fixture.cluster.handle_sessions(fixture.now, *attachment, said).expect("taken");
    }
    fixture
}

impl Fixture {
    fn ask(&mut self, what: &What) -> (SessionId, Selection) {
        const NOTHING: &Requirements =
            &Requirements { protocol: None, labels: Vec::new(), live_ingest: false, records: false };
        self.sessions += 1;
        let ask = SeatRequest {
            what,
            purpose: Purpose::Play,
            range: Range::default(),
            rate: None,
            exclude: &[],
            zone: "z1",
            needs: NOTHING,
            failed: &[],
            tag: 1,
            unsure: false,
            viewer: None,
            source: None,
        };
        let session = session(self.sessions);
        let decision = self.cluster.resolve(self.now, session, &ask, &mut self.rng).expect("room");
        (session, divan::black_box(decision).how)
    }

    /// One decision. The ledger holds the last 10,000: a thousand requests a second for ten seconds.
    fn decide(&mut self, what: &What) {
        self.ask(what);
        if let Some(old) = self.sessions.checked_sub(10_000) {
            self.cluster.release(session(old));
        }
    }

    /// A decision that moves a session, most of the time; the move is then cancelled.
    fn move_one(&mut self, what: &What) {
        let (session, how) = self.ask(what);
        self.cluster.release(session);
        if let Selection::Moved(_) = how {
            for order in self.cluster.poll_orders() {
                if let Order::Move(step) = order {
                    self.cluster.handle_move_answer(step.session, false);
                }
            }
        }
    }
}

/// Spread like random ids.
fn session(i: u128) -> SessionId {
    SessionId(i.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn bench(bencher: Bencher<'_, '_>, fixture: Fixture, what: impl Fn(u32) -> What, decide: impl Fn(&mut Fixture, &What)) {
    let (titles, fixture) = (fixture.size.titles, RefCell::new(fixture));
    let mut pick = SmallRng::seed_from_u64(2);
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| what(pick.random_range(0..titles)))
        .bench_local_refs(|what| decide(&mut fixture.borrow_mut(), what));
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn by_title(bencher: Bencher<'_, '_>) {
    bench(bencher, fixture(USUAL, ENDLESS), |i| What::Title(title(i)), Fixture::decide);
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn by_content(bencher: Bencher<'_, '_>) {
    bench(bencher, fixture(USUAL, ENDLESS), |i| What::Content(content(i)), Fixture::decide);
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn by_title_of_a_million(bencher: Bencher<'_, '_>) {
    bench(bencher, fixture(LARGE, ENDLESS), |i| What::Title(title(i)), Fixture::decide);
}

/// A request that needs a move, and its cancellation.
#[divan::bench(sample_count = 1000, sample_size = 10)]
fn with_a_move(bencher: Bencher<'_, '_>) {
    bench(bencher, full(), |i| What::Title(title(i)), Fixture::move_one);
}

/// A page of 256 copies of one more node: the longest hold of the lock.
#[divan::bench(sample_count = 200)]
fn page_of_256_copies(bencher: Bencher<'_, '_>) {
    let mut fixture = fixture(USUAL, ENDLESS);
    let attachment =
        fixture.cluster.handle_attach(fixture.now, hello("again", 1000, String::new(), 1)).expect("attached");
    let (fixture, mut first) = (RefCell::new(fixture), 0);
    bencher
        .with_inputs(|| {
            first = (first + 256) % (USUAL.titles - 256);
            CatalogPage { complete: true, copies: (first..first + 256).map(copy).collect(), ..CatalogPage::default() }
        })
        .bench_local_refs(|page| fixture.borrow_mut().cluster.handle_page(attachment, page).expect("taken"));
}
