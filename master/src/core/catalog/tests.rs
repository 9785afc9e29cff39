//! The catalog against tables, and against a naive model under random pages.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use usher_proto::{
    Bitrate,
    model::{CatalogPage, Origin},
};

use super::*;

fn copy(title: &str, volume: u16, content: Option<u8>, modified_ms: i64) -> CatalogCopy {
    CatalogCopy {
        title: Title::parse(title).expect("a title"),
        volume,
        // Content ids with equal prefixes, so that the index must compare the rest.
        content: content.map(|byte| {
            let mut id = [0; 32];
            id[31] = byte;
            ContentId(id)
        }),
        size: content.map_or(1, u64::from) + 10,
        modified_ms,
        bitrate: Bitrate(u64::from(content.unwrap_or(0))),
        duration_ms: 5,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: Origin::Operator,
    }
}

fn whole(titles: &[&str]) -> CatalogPage {
    let copies = titles.iter().map(|title| copy(title, 0, Some(title.as_bytes()[0]), 0)).collect();
    CatalogPage { restart: true, complete: true, copies, ..CatalogPage::default() }
}

fn id(byte: u8) -> ContentId {
    copy("a", 0, Some(byte), 0).content.expect("hashed")
}

fn holders(catalog: &Catalog, title: &str) -> Vec<u32> {
    let found = catalog.by_title(title, |_| true);
    found.map_or_else(Vec::new, |found| catalog.holders(&found).map(|node| node.0).collect())
}

#[test]
fn figure_4() {
    let mut catalog = Catalog::new();
    for (node, titles) in [(1, "A B C D"), (2, "B E F G H"), (3, "B E H J")] {
        let titles: Vec<&str> = titles.split(' ').collect();
        catalog.page(NodeId(node), &whole(&titles)).expect("taken");
    }
    for (title, nodes) in [
        ("A", vec![1]),
        ("B", vec![1, 2, 3]),
        ("C", vec![1]),
        ("D", vec![1]),
        ("E", vec![2, 3]),
        ("F", vec![2]),
        ("G", vec![2]),
        ("H", vec![2, 3]),
        ("I", vec![]),
        ("J", vec![3]),
    ] {
        assert_eq!(holders(&catalog, title), nodes, "{title}");
        let mut found = Vec::new();
        catalog.by_content(&id(title.as_bytes()[0]), &mut found);
        let by_content: Vec<u32> = found.iter().flat_map(|f| catalog.holders(f)).map(|node| node.0).collect();
        assert_eq!(by_content, nodes, "content of {title}");
    }
    let names = |prefix, after| -> Vec<String> {
        let list = catalog.list(prefix, after, |_| true);
        list.filter_map(|found| Some(catalog.facts(&found)?.title.to_string())).collect()
    };
    assert_eq!(names("", None).concat(), "ABCDEFGHJ");
    assert_eq!(names("", Some("F")).concat(), "GHJ");
    assert_eq!(names("E", None).concat(), "E");
    assert!(names("E", Some("E")).is_empty() && names("Z", None).is_empty());
}

#[test]
fn a_whole_catalog_replaces_the_one_before_only_when_complete() {
    let mut catalog = Catalog::new();
    let node = NodeId(0);
    catalog.page(node, &whole(&["A", "B"])).expect("taken");
    let begin = CatalogPage { restart: true, copies: vec![copy("C", 0, Some(3), 0)], ..CatalogPage::default() };
    catalog.page(node, &begin).expect("taken");
    assert_eq!([holders(&catalog, "A"), holders(&catalog, "C")], [[0], [0]]);
    // A change in between is kept, and the node restarts before it was complete.
    catalog.page(node, &begin).expect("taken");
    assert_eq!(catalog.copies_of(node), 3);
    let end = CatalogPage { complete: true, copies: vec![copy("B", 0, Some(2), 0)], ..CatalogPage::default() };
    catalog.page(node, &end).expect("taken");
    assert_eq!([holders(&catalog, "A"), holders(&catalog, "B"), holders(&catalog, "C")], [vec![], vec![0], vec![0]]);
    assert_eq!(catalog.copies_of(node), 2);
    while catalog.sweep() {}
    assert_eq!(catalog.names.len(), 2);
    catalog.forget(node);
    while catalog.sweep() {}
    assert_eq!((catalog.names.len(), catalog.contents.len(), catalog.copies_of(node)), (0, 0, 0));
}

#[test]
fn a_name_with_several_contents_means_its_owners() {
    /// Name, copies as (node, volume, content, modified), the winner, and whether there is a conflict.
    type Row = (&'static str, &'static [(u32, u16, Option<u8>, i64)], Option<u8>, bool);
    let table: &[Row] = &[
        ("one content", &[(0, 0, Some(1), 0), (1, 0, Some(1), 9)], Some(1), false),
        ("the first, not the newest", &[(0, 0, Some(1), 3), (1, 0, Some(2), 4)], Some(1), true),
        ("the first, not the lowest", &[(1, 0, Some(2), 3), (0, 0, Some(1), 3)], Some(2), true),
        ("not the majority", &[(0, 0, Some(1), 0), (1, 0, Some(2), 9), (2, 0, Some(2), 9)], Some(1), true),
        ("its newest on two volumes", &[(0, 0, Some(1), 3), (0, 1, Some(2), 4), (1, 0, Some(1), 9)], Some(2), true),
        ("hashed meanwhile by another", &[(0, 0, None, 9), (1, 0, None, 9), (2, 0, Some(1), 0)], Some(1), false),
        ("another size is another file", &[(0, 0, None, 0), (1, 0, Some(5), 9)], None, false),
        ("the unhashed alone", &[(0, 0, None, 9), (1, 0, None, 9)], None, false),
        ("an owner that is away", &[(7, 0, Some(1), 0), (1, 0, Some(2), 9), (2, 0, Some(2), 9)], Some(1), true),
    ];
    for (what, copies, winner, conflict) in table {
        let mut catalog = Catalog::new();
        let mut appeared = 0;
        for (node, volume, content, modified) in *copies {
            appeared += u32::from(catalog.set(NodeId(*node), &copy("a", *volume, *content, *modified)));
        }
        let found = catalog.by_title("a", |node| node.0 < 7).expect(what);
        assert_eq!(catalog.facts(&found).and_then(|facts| facts.content), winner.map(id), "{what}");
        assert_eq!((found.conflict, appeared), (*conflict, u32::from(*conflict)), "{what}");
        let versions = catalog.versions("a", |node| node.0 < 7);
        assert_eq!(versions.first(), Some(&found), "{what}");
    }
}

#[test]
fn a_title_keeps_its_content_until_its_owner_or_an_operator_changes_it() {
    let content = |catalog: &Catalog| {
        let found = catalog.by_title("a", |_| true)?;
        Some(u8::try_from(catalog.facts(&found)?.size).expect("small") - 10)
    };
    let set =
        |catalog: &mut Catalog, node, byte, modified| catalog.set(NodeId(node), &copy("a", 0, Some(byte), modified));
    let title = Title::parse("a").expect("a title");
    let mut catalog = Catalog::new();
    set(&mut catalog, 3, 1, 0);
    assert!(set(&mut catalog, 1, 2, i64::MAX), "a conflict");
    assert_eq!((content(&catalog), catalog.conflicts(9)), (Some(1), vec![title.clone()]));
    // The owner's own change is none, and ends the conflict where the contents agree.
    assert!(!set(&mut catalog, 3, 3, 0));
    assert_eq!(content(&catalog), Some(3));
    set(&mut catalog, 3, 2, 0);
    assert_eq!((content(&catalog), catalog.conflicts(9)), (Some(2), vec![]));

    // A holder of the same content takes the owner's place, and it changes the title from then on.
    set(&mut catalog, 2, 4, i64::MAX);
    catalog.remove(NodeId(3), &title, 0);
    assert_eq!(content(&catalog), Some(2));
    set(&mut catalog, 3, 5, i64::MAX);
    assert_eq!(content(&catalog), Some(2), "the owner before it is one node among others");
    set(&mut catalog, 1, 6, 0);
    assert_eq!(content(&catalog), Some(6));

    // Without an heir, the node known for longest decides, until the owner is back. Its file may be written anew in place.
    catalog.remove(NodeId(1), &title, 0);
    assert_eq!(content(&catalog), Some(4));
    set(&mut catalog, 1, 7, 0);
    assert_eq!(content(&catalog), Some(7));
    // The same after the loss of the node, before and after its copies were collected.
    catalog.forget(NodeId(1));
    assert_eq!(content(&catalog), Some(4));
    while catalog.sweep() {}
    assert_eq!(content(&catalog), Some(4));
    set(&mut catalog, 1, 7, 0);
    assert_eq!(content(&catalog), Some(7));

    // An operator decides, for as long as there is a copy.
    assert!(!catalog.decide(&title, id(9)) && catalog.decide(&title, id(5)));
    assert_eq!((content(&catalog), catalog.conflicts(9).len()), (Some(5), 1));
    catalog.remove(NodeId(3), &title, 0);
    assert_eq!(content(&catalog), Some(7));
    assert_eq!(catalog.decisions().count(), 1);
    let mut restored = Catalog::new();
    restored.restore_decision(title, id(4));
    set(&mut restored, 1, 7, 0);
    set(&mut restored, 2, 4, 0);
    assert_eq!(content(&restored), Some(4));
}

#[test]
fn copies_made_by_order_do_not_hold_their_original_back() {
    let replica = |byte| CatalogCopy { origin: Origin::Replica, ..copy("a", 0, Some(byte), 0) };
    let content = |catalog: &Catalog| {
        let found = catalog.by_title("a", |_| true).expect("there");
        catalog.facts(&found).and_then(|facts| facts.content)
    };
    let mut catalog = Catalog::new();
    // After a restart of the master the copies are listed first.
    catalog.set(NodeId(0), &replica(1));
    catalog.set(NodeId(1), &replica(1));
    catalog.set(NodeId(2), &copy("a", 0, Some(1), 0));
    catalog.set(NodeId(2), &copy("a", 0, Some(2), 0));
    assert_eq!(content(&catalog), Some(id(2)), "the file was replaced");
    // Written in place, it is gone for a moment.
    catalog.remove(NodeId(2), &Title::parse("a").expect("a title"), 0);
    assert_eq!(content(&catalog), Some(id(1)));
    catalog.set(NodeId(2), &copy("a", 0, Some(3), 0));
    assert_eq!(content(&catalog), Some(id(3)));
    // Another node's file of another content is none of them.
    catalog.set(NodeId(3), &copy("a", 0, Some(1), 9));
    assert_eq!(content(&catalog), Some(id(3)));
}

#[test]
fn more_copies_than_anyone_has_are_refused() {
    let mut catalog = Catalog::new();
    catalog.holder(NodeId(0)).copies = MAX_COPIES;
    let page = CatalogPage { copies: vec![copy("a", 0, None, 0)], ..CatalogPage::default() };
    assert_eq!(catalog.page(NodeId(0), &page), Err(PageError::TooLarge));
    assert!(catalog.page(NodeId(1), &page).is_ok());
}

#[test]
fn one_node_cannot_take_all_memory_and_memory_returns() {
    let names = |prefix: &str, count: usize| -> CatalogPage {
        let long = "x".repeat(200);
        let copies = (0..count).map(|i| copy(&format!("{prefix}/{long}/{i}"), 0, Some((i % 250) as u8), 0)).collect();
        CatalogPage { complete: true, copies, ..CatalogPage::default() }
    };
    const LIMIT: u64 = 1 << 20;
    let mut catalog = Catalog::within(LIMIT);
    let honest = catalog.page(NodeId(0), &names("a", 500)).expect("taken");
    assert_eq!((honest.full.copies, catalog.copies_of(NodeId(0))), (0, 500));
    let greedy = catalog.page(NodeId(1), &names("b", 10_000)).expect("taken in part");
    assert!(greedy.full.copies > 0 && catalog.copies_of(NodeId(1)) + greedy.full.copies == 10_000);
    assert!(greedy.full.example.is_some_and(|title| title.as_str().starts_with("b/")));
    assert!(catalog.bytes_of(NodeId(1)) <= LIMIT / 2 && catalog.bytes() <= LIMIT, "{}", catalog.bytes());
    // There is room for others, and for changes of what is there.
    assert_eq!(catalog.page(NodeId(2), &names("c", 300)).map(|outcome| outcome.full.copies), Ok(0));
    assert_eq!(catalog.page(NodeId(0), &names("a", 500)).map(|outcome| outcome.full.copies), Ok(0));
    // A second holder pays for its copies only, and for the titles once the first is gone.
    assert_eq!(catalog.page(NodeId(3), &names("a", 500)).map(|outcome| outcome.full.copies), Ok(0));
    let (payer, heir) = (catalog.bytes_of(NodeId(0)), catalog.bytes_of(NodeId(3)));
    assert!(payer > 3 * heir);
    catalog.forget(NodeId(0));
    while catalog.sweep() {}
    assert_eq!((catalog.bytes_of(NodeId(0)), catalog.bytes_of(NodeId(3))), (0, payer));
    assert_eq!(catalog.titles(), 800 + catalog.copies_of(NodeId(1)) as usize);

    let slabs = catalog.slab_bytes();
    (1..=3).for_each(|node| catalog.forget(NodeId(node)));
    while catalog.sweep() {}
    assert_eq!((catalog.bytes(), catalog.titles()), (0, 0));
    assert!(catalog.slab_bytes() < slabs / 10, "{} of {slabs}", catalog.slab_bytes());
    let again = catalog.page(NodeId(1), &names("b", 1000)).expect("taken");
    assert_eq!((again.full.copies, catalog.titles()), (0, 1000));
}

#[test]
fn titles_outside_a_nodes_limits_are_not_taken() {
    let mut catalog = Catalog::new();
    let may_list = |title: &Title| title.as_str().starts_with("films/");
    let page = whole(&["films/a", "live/b", "shows/c"]);
    let outcome = catalog.page_within(NodeId(0), &page, may_list).expect("taken in part");
    assert_eq!((outcome.outside.copies, outcome.full.copies, catalog.titles()), (2, 0, 1));
    assert_eq!(outcome.outside.example.as_ref().map(Title::as_str), Some("live/b"));
}

#[test]
fn media_types_do_not_grow_for_ever() {
    let mut media = super::media::MediaTypes::default();
    for i in 0..10_000 {
        let number = media.number(&format!("video/x{i}"));
        let expected = if i < 4095 { format!("video/x{i}") } else { "application/octet-stream".into() };
        assert_eq!(media.name(number), expected);
    }
}

/// One operation on a node's catalog.
#[derive(Clone, Debug)]
enum CatalogStep {
    Set(u32, u8, u16, Option<u8>, i64),
    Remove(u32, u8, u16),
    Restart(u32),
    Complete(u32),
    Forget(u32),
    Sweep,
}

fn step() -> impl Strategy<Value = CatalogStep> {
    let content = prop_oneof![Just(None), (1_u8..4).prop_map(Some)];
    prop_oneof![
        8 => (0_u32..4, 0_u8..6, 0_u16..2, content, 0_i64..3).prop_map(|(n, t, v, c, m)| CatalogStep::Set(n, t, v, c, m)),
        2 => (0_u32..4, 0_u8..6, 0_u16..2).prop_map(|(n, t, v)| CatalogStep::Remove(n, t, v)),
        1 => (0_u32..4).prop_map(CatalogStep::Restart),
        1 => (0_u32..4).prop_map(CatalogStep::Complete),
        1 => (0_u32..4).prop_map(CatalogStep::Forget),
        1 => Just(CatalogStep::Sweep),
    ]
}

/// Copies by title, node and volume, each with its generation.
#[derive(Default)]
struct CatalogModel {
    copies: BTreeMap<(String, u32, u16), (CatalogCopy, u32)>,
    generation: [u32; 4],
}

impl CatalogModel {
    fn apply(&mut self, step: &CatalogStep) {
        match step {
            CatalogStep::Set(node, title, volume, content, modified) => {
                let title = format!("t{title}");
                let copy = copy(&title, *volume, *content, *modified);
                self.copies.insert((title, *node, *volume), (copy, self.generation[*node as usize]));
            }
            CatalogStep::Remove(node, title, volume) => {
                self.copies.remove(&(format!("t{title}"), *node, *volume));
            }
            CatalogStep::Restart(node) => self.generation[*node as usize] += 1,
            CatalogStep::Complete(node) => {
                let generation = self.generation[*node as usize];
                self.copies.retain(|(_, n, _), (_, g)| n != node || *g == generation);
            }
            CatalogStep::Forget(node) => self.copies.retain(|(_, n, _), _| n != node),
            CatalogStep::Sweep => {}
        }
    }

    /// Nodes by content of a title, and whether there is a conflict. `chosen` is the content that the catalog chose, which
    /// must be one of them; the owner's rules have tests of their own.
    fn by_title(&self, title: &str, chosen: Option<ContentIdentity>) -> Option<(ContentIdentity, BTreeSet<u32>, bool)> {
        let mine = self.copies.iter().filter(|((name, ..), _)| name == title);
        let mut versions: BTreeMap<ContentIdentity, BTreeSet<u32>> = BTreeMap::new();
        for ((_, node, _), (copy, _)) in mine {
            let key = copy.content.map_or(ContentIdentity::Sized(copy.size), ContentIdentity::Hashed);
            versions.entry(key).or_default().insert(*node);
        }
        let conflict = versions.keys().filter(|key| matches!(key, ContentIdentity::Hashed(_))).count() > 1;
        let chosen =
            chosen.filter(|chosen| versions.contains_key(chosen)).or_else(|| versions.keys().next().copied())?;
        Some((chosen, versions.remove(&chosen)?, conflict))
    }
}

proptest! {
    #[test]
    fn the_catalog_is_the_model(steps in proptest::collection::vec(step(), 0..120)) {
        let (mut catalog, mut model) = (Catalog::new(), CatalogModel::default());
        let attached = |node: NodeId| node.0 < 3;
        for step in steps {
            model.apply(&step);
            match step {
                CatalogStep::Set(node, title, volume, content, modified) => {
                    catalog.set(NodeId(node), &copy(&format!("t{title}"), volume, content, modified));
                }
                CatalogStep::Remove(node, title, volume) => {
                    catalog.remove(NodeId(node), &Title::parse(&format!("t{title}")).expect("a title"), volume);
                }
                CatalogStep::Restart(node) => catalog.restart(NodeId(node)),
                CatalogStep::Complete(node) => catalog.complete(NodeId(node)),
                CatalogStep::Forget(node) => {
                    catalog.forget(NodeId(node));
                    model.generation[node as usize] += 1;
                }
                CatalogStep::Sweep => while catalog.sweep() {},
            }
            let mut listed = Vec::new();
            for title in (0..6).map(|t| format!("t{t}")) {
                let found = catalog.by_title(&title, attached);
                let seen = found.map(|f| (f.identity, catalog.holders(&f).map(|n| n.0).collect(), f.conflict));
                let truth = model.by_title(&title, found.map(|found| found.identity));
                prop_assert_eq!(&seen, &truth, "{}", title);
                listed.extend(truth.map(|_| title));
            }
            let list: Vec<String> = catalog
                .list("t", None, attached)
                .filter_map(|f| Some(catalog.facts(&f)?.title.to_string()))
                .collect();
            prop_assert_eq!(list, listed);
            for content in (1..4).map(id) {
                let mut found = Vec::new();
                catalog.by_content(&content, &mut found);
                let seen: BTreeSet<(String, u32)> = found
                    .iter()
                    .flat_map(|f| catalog.holders(f).map(move |node| (f, node.0)))
                    .filter_map(|(f, node)| Some((catalog.facts(f)?.title.to_string(), node)))
                    .collect();
                let truth: BTreeSet<(String, u32)> = model
                    .copies
                    .iter()
                    .filter(|(_, (copy, _))| copy.content == Some(content))
                    .map(|((title, node, _), _)| (title.clone(), *node))
                    .collect();
                prop_assert_eq!(seen, truth);
            }
            for node in 0..4 {
                let truth = model.copies.keys().filter(|key| key.1 == node).count();
                prop_assert_eq!(catalog.copies_of(NodeId(node)) as usize, truth);
            }
            let parts: u64 = (0..4).map(|node| catalog.bytes_of(NodeId(node))).sum();
            prop_assert_eq!(catalog.bytes(), parts);
        }
        // Nothing remains after removal.
        for node in (0..4).map(NodeId) {
            catalog.forget(node);
        }
        while catalog.sweep() {}
        prop_assert!(catalog.names.is_empty() && catalog.contents.is_empty() && catalog.conflicts.is_empty());
        prop_assert_eq!(catalog.bytes(), 0);
    }
}
