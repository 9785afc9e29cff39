//! The catalog against tables, and against a naive model under random pages.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use usher_proto::{Bitrate, model::Origin};

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
fn a_name_with_several_contents_means_the_newest_majority() {
    /// Name, copies as (node, volume, content, modified), the winner, and whether there is a conflict.
    type Row = (&'static str, &'static [(u32, u16, Option<u8>, i64)], Option<u8>, bool);
    let table: &[Row] = &[
        ("one content", &[(0, 0, Some(1), 0), (1, 0, Some(1), 9)], Some(1), false),
        ("most nodes", &[(0, 0, Some(1), 0), (1, 0, Some(1), 0), (2, 0, Some(2), 9)], Some(1), true),
        ("volumes are no votes", &[(0, 0, Some(1), 0), (0, 1, Some(1), 0), (2, 0, Some(2), 9)], Some(2), true),
        ("then the newest", &[(0, 0, Some(1), 3), (1, 0, Some(2), 4)], Some(2), true),
        ("then the lowest id", &[(0, 0, Some(2), 3), (1, 0, Some(1), 3)], Some(1), true),
        ("hashed goes first", &[(0, 0, None, 9), (1, 0, None, 9), (2, 0, Some(1), 0)], Some(1), false),
        ("the unhashed alone", &[(0, 0, None, 9), (1, 0, None, 9)], None, false),
        ("who is gone has no vote", &[(7, 0, Some(1), 9), (8, 0, Some(1), 9), (1, 0, Some(2), 0)], Some(2), true),
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
fn more_copies_than_anyone_has_are_refused() {
    let mut catalog = Catalog::new();
    catalog.holder(NodeId(0)).copies = MAX_COPIES;
    let page = CatalogPage { copies: vec![copy("a", 0, None, 0)], ..CatalogPage::default() };
    assert_eq!(catalog.page(NodeId(0), &page), Err(PageError::TooLarge));
    assert!(catalog.page(NodeId(1), &page).is_ok());
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

    /// Nodes by content of a title; nodes below 3 are attached.
    fn by_title(&self, title: &str) -> Option<(ContentIdentity, BTreeSet<u32>, bool)> {
        let mine = self.copies.iter().filter(|((name, ..), _)| name == title);
        let mut versions: BTreeMap<ContentIdentity, (BTreeSet<u32>, i64)> = BTreeMap::new();
        for ((_, node, _), (copy, _)) in mine {
            let key = copy.content.map_or(ContentIdentity::Sized(copy.size), ContentIdentity::Hashed);
            let version = versions.entry(key).or_insert((BTreeSet::new(), i64::MIN));
            version.0.insert(*node);
            version.1 = version.1.max(copy.modified_ms);
        }
        let conflict = versions.keys().filter(|key| matches!(key, ContentIdentity::Hashed(_))).count() > 1;
        let mut best: Option<(ContentIdentity, BTreeSet<u32>, i64)> = None;
        for (key, (nodes, modified)) in versions {
            let votes = |nodes: &BTreeSet<u32>| nodes.iter().filter(|node| **node < 3).count();
            let hashed = |key: &ContentIdentity| matches!(key, ContentIdentity::Hashed(_));
            let better = best
                .as_ref()
                .is_none_or(|(k, n, m)| (hashed(&key), votes(&nodes), modified) > (hashed(k), votes(n), *m));
            if better {
                best = Some((key, nodes, modified));
            }
        }
        best.map(|(key, nodes, _)| (key, nodes, conflict))
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
                let truth = model.by_title(&title);
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
        }
        // Nothing remains after removal.
        for node in (0..4).map(NodeId) {
            catalog.forget(node);
        }
        while catalog.sweep() {}
        prop_assert!(catalog.names.is_empty() && catalog.contents.is_empty());
    }
}
