//! The cost of a decision (look up, choose, reserve; no signing) and of a page, at 100,000 titles, each on 3 of 100
//! nodes. `cargo bench -p usher-master --bench decision`

use std::{cell::RefCell, time::Instant};

use divan::{Bencher, counter::ItemsCount};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_master::core::{
    Now,
    cluster::{Ask, Cluster},
};
use usher_proto::{
    Bitrate, BootId, ContentId, NodeName, SessionId, Title,
    model::{CatalogCopy, CatalogPage, Equipment, Hello, Origin, Presence, Range, What},
    ticket::Purpose,
};

const TITLES: u32 = 100_000;
const NODES: u32 = 100;
const HOLDERS: u32 = 3;

fn main() {
    divan::main();
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
        bitrate: Bitrate(8_000_000),
        duration_ms: 1,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: Origin::Operator,
    }
}

struct World {
    cluster: Cluster,
    now: Now,
    rng: SmallRng,
    sessions: u128,
}

fn world() -> World {
    let now = Now { instant: Instant::now(), unix_ms: 0 };
    let mut cluster = Cluster::new();
    let links: Vec<_> = (0..NODES)
        .map(|i| {
            let hello = Hello {
                node: NodeName::parse(&format!("node-{i}")).expect("a name"),
                boot: BootId(i.into()),
                version: String::new(),
                zone: format!("z{}", i % 3),
                // Enough that the bench never fills the cluster.
                capacity: Bitrate(100_000_000_000_000),
                presence: Presence {
                    addresses: vec![([127, 0, 0, 1], 1).into()],
                    certificates: vec![],
                    draining: false,
                },
                attachment: 1,
                equipment: Equipment::default(),
                replica_bytes: 0,
            };
            cluster.attach(now, hello).expect("attached")
        })
        .collect();
    for i in 0..TITLES {
        let page = CatalogPage { complete: true, copies: vec![copy(i)], ..CatalogPage::default() };
        for k in 0..HOLDERS {
            let node = (i.wrapping_mul(7919) + k * 33) % NODES;
            cluster.page(links[node as usize], &page).expect("taken");
        }
    }
    World { cluster, now, rng: SmallRng::seed_from_u64(1), sessions: 0 }
}

impl World {
    /// One decision. The ledger holds the last 10,000: a thousand requests a second for ten seconds.
    fn decide(&mut self, what: &What) {
        self.sessions += 1;
        let ask = Ask { what, purpose: Purpose::Play, range: Range::default(), rate: None, exclude: &[], zone: "z1" };
        divan::black_box(self.cluster.resolve(self.now, session(self.sessions), &ask, &mut self.rng).expect("room"));
        if let Some(old) = self.sessions.checked_sub(10_000) {
            self.cluster.release(session(old));
        }
    }
}

/// Spread like random ids.
fn session(i: u128) -> SessionId {
    SessionId(i.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn bench(bencher: Bencher<'_, '_>, what: impl Fn(u32) -> What) {
    let world = RefCell::new(world());
    let mut pick = SmallRng::seed_from_u64(2);
    bencher
        .counter(ItemsCount::new(1_u32))
        .with_inputs(|| what(pick.random_range(0..TITLES)))
        .bench_local_refs(|what| world.borrow_mut().decide(what));
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn by_title(bencher: Bencher<'_, '_>) {
    bench(bencher, |i| What::Title(title(i)));
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn by_content(bencher: Bencher<'_, '_>) {
    bench(bencher, |i| What::Content(content(i)));
}

/// A page of 256 copies of one more node: what the lock is held for at most.
#[divan::bench(sample_count = 200)]
fn page_of_256_copies(bencher: Bencher<'_, '_>) {
    let world = RefCell::new(world());
    let name = NodeName::parse("again").expect("a name");
    let (now, mut first) = (world.borrow().now, 0);
    let presence = Presence { addresses: vec![([127, 0, 0, 1], 1).into()], certificates: vec![], draining: false };
    let hello = Hello {
        node: name,
        boot: BootId(1000),
        version: String::new(),
        zone: String::new(),
        capacity: Bitrate(1),
        presence,
        attachment: 1,
        equipment: Equipment::default(),
        replica_bytes: 0,
    };
    let link = world.borrow_mut().cluster.attach(now, hello).expect("attached");
    bencher
        .with_inputs(|| {
            first = (first + 256) % (TITLES - 256);
            CatalogPage { complete: true, copies: (first..first + 256).map(copy).collect(), ..CatalogPage::default() }
        })
        .bench_local_refs(|page| world.borrow_mut().cluster.page(link, page).expect("taken"));
}
