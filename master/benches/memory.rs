//! Memory per title in the master's catalog, beyond its name: 100,000 titles of one node, measured by the growth of the
//! process's resident memory. `cargo bench -p usher-master --bench memory`

use std::fs;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_master::core::{NodeId, catalog::Catalog};
use usher_proto::{
    Bitrate, ContentId, Title,
    model::{CatalogCopy, CatalogPage, Origin},
};

const TITLES: usize = 100_000;
const PAGE: usize = 1000;

/// Resident memory in bytes, from Linux's count of 4 KiB pages.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

fn page(first: usize, complete: bool, rng: &mut SmallRng) -> CatalogPage {
    let copies = (first..first + PAGE).map(|i| CatalogCopy {
        title: Title::parse(&format!("films/series-{:03}/episode-{i:06}.mp4", i / 200)).expect("a title"),
        volume: 0,
        content: Some(ContentId(rng.random())),
        size: 1_000_000_000,
        modified_ms: 1,
        bitrate: Bitrate(8_000_000),
        duration_ms: 1,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: Origin::Operator,
    });
    CatalogPage { restart: first == 0, complete, copies: copies.collect(), ..CatalogPage::default() }
}

fn main() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut catalog = Catalog::new();
    // The first page includes the allocator's start-up.
    catalog.page(NodeId(1), &page(0, true, &mut rng)).expect("taken");
    let before = resident();
    let mut names = 0;
    for first in (0..TITLES).step_by(PAGE) {
        let page = page(first, first + PAGE == TITLES, &mut rng);
        names += page.copies.iter().map(|copy| copy.title.as_str().len()).sum::<usize>();
        catalog.page(NodeId(0), &page).expect("taken");
    }
    let grown = resident().saturating_sub(before);
    println!(
        "{TITLES} titles of one node: {} bytes a title, {} beyond the names; of these, slabs {}",
        grown / TITLES,
        grown.saturating_sub(names) / TITLES,
        catalog.slab_bytes() / TITLES
    );
}
