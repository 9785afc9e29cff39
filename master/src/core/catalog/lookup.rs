//! Reading the catalog: by name, by content, by prefix; and which content a name means when there are several.

use std::{cmp::Reverse, ops::Bound};

use usher_proto::{Bitrate, ContentId, Title};

use super::{
    Catalog, NodeId, TitleId,
    copy::{Copy, CopyView, Key, MEDIA, STREAMABLE},
};

/// One content of one title, for as long as the title is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// The title.
    pub id: TitleId,
    /// Which content.
    pub key: Key,
}

/// One content under one title; good until the catalog changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub(super) title: u32,
    /// Its newest copy, whose facts are given.
    pub(super) newest: u32,
    /// Which content.
    pub key: Key,
    /// More than one hashed content has this title.
    pub conflict: bool,
}

/// What is known of a content under a title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The name.
    pub title: &'a Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes.
    pub size: u64,
    /// Mean rate; 0 when the container does not say.
    pub bitrate: Bitrate,
    /// Milliseconds; 0 when unknown.
    pub duration_ms: u64,
    /// For example `video/mp4`.
    pub media_type: &'a str,
    /// Whether it plays before it is whole.
    pub streamable: bool,
}

/// Names of one content that are looked at: a placeholder may stand under a hundred thousand.
const NAMES: usize = 64;

/// One content in the count of which is the majority.
struct Tally {
    key: Key,
    newest: u32,
    modified_ms: i64,
    holders: usize,
    last: Option<NodeId>,
}

impl Catalog {
    /// The content that a request by name gets: that of most attached nodes, then the newest, then the lowest
    /// content id. What is not hashed is chosen only when nothing is hashed.
    pub fn by_title(&self, title: &str, attached: impl Fn(NodeId) -> bool) -> Option<Found> {
        self.first(self.number(title)?, attached)
    }

    /// The titles with a content, at most 64, in no particular order, appended to `found`.
    pub fn by_content(&self, content: &ContentId, found: &mut Vec<Found>) {
        let from = super::index_key(content, 0);
        for line in self.contents.range(from..=from | u64::from(u32::MAX)).take(NAMES) {
            // The low half is the title's number.
            let title = (line & u64::from(u32::MAX)) as u32;
            let mut copies = self.live(title).filter(|(_, copy)| copy.hashed() == Some(*content));
            let Some(first) = copies.next() else { continue };
            let newest = copies.fold(first, newer).0;
            found.push(Found { title, newest, key: Key::Hashed(*content), conflict: self.conflict(title) });
        }
    }

    /// Every content of a title, the one that a request by name gets first.
    pub fn versions(&self, title: &str, attached: impl Fn(NodeId) -> bool) -> Vec<Found> {
        let Some(title) = self.number(title) else { return Vec::new() };
        self.tallies(title, attached)
    }

    /// Titles that start with `prefix` and come after `after`, in the order of their bytes.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        attached: impl Fn(NodeId) -> bool + 'a + std::marker::Copy,
    ) -> impl Iterator<Item = Found> + 'a {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.names
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .filter_map(move |(_, &title)| self.first(title, attached))
    }

    /// Visits the content by name of at most `limit` titles from a place on (0 is the beginning); tells the place to go
    /// on from, none at the end. Looks at as many places as it may visit.
    pub fn walk(&self, place: usize, limit: usize, mut visit: impl FnMut(Work)) -> Option<usize> {
        let end = place.saturating_add(limit).min(self.entries.len());
        for entry in place..end {
            let Ok(entry) = u32::try_from(entry) else { continue };
            if let Some(found) = self.first(entry, |_| true) {
                visit(self.work(&found));
            }
        }
        (end < self.entries.len()).then_some(end)
    }

    /// The nodes that hold it, each once, in the order of their numbers.
    pub fn holders(&self, found: &Found) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        self.copies(found).filter_map(move |copy| (last.replace(copy.node) != Some(copy.node)).then_some(copy.node))
    }

    /// Its copies, by node and volume.
    pub fn copies(&self, found: &Found) -> impl Iterator<Item = CopyView> {
        let key = found.key;
        self.live(found.title).filter(move |(_, copy)| copy.key() == key).map(|(_, copy)| copy.view())
    }

    /// What it is, for longer than until the catalog changes.
    pub fn work(&self, found: &Found) -> Work {
        Work { id: TitleId { entry: found.title, born: self.entries[found.title].born }, key: found.key }
    }

    /// A content of a title by name, while a copy of it is there.
    pub fn under(&self, title: &str, key: Key) -> Option<Found> {
        let entry = self.number(title)?;
        self.found(TitleId { entry, born: self.entries[entry].born }, key)
    }

    /// A content of a title by number, while a copy of it is there.
    pub fn found(&self, id: TitleId, key: Key) -> Option<Found> {
        self.entries.slot(id.entry).filter(|entry| entry.born == id.born && entry.name.is_some())?;
        let mut copies = self.live(id.entry).filter(|(_, copy)| copy.key() == key);
        let first = copies.next()?;
        let newest = copies.fold(first, newer).0;
        Some(Found { title: id.entry, newest, key, conflict: self.conflict(id.entry) })
    }

    /// The copies of a work, by node and volume; none once its title is gone.
    pub fn copies_of_work(&self, work: Work) -> impl Iterator<Item = CopyView> {
        let entry = self.entries.slot(work.id.entry).filter(|entry| entry.born == work.id.born && entry.name.is_some());
        let copies = entry.into_iter().flat_map(move |_| self.live(work.id.entry));
        copies.filter(move |(_, copy)| copy.key() == work.key).map(|(_, copy)| copy.view())
    }

    /// What is known of it.
    pub fn facts(&self, found: &Found) -> Option<Facts<'_>> {
        let copy = self.copies.slot(found.newest)?;
        Some(Facts {
            title: self.entries.slot(found.title)?.name.as_ref()?,
            content: copy.hashed(),
            size: copy.size,
            bitrate: Bitrate(copy.bitrate),
            duration_ms: copy.duration_ms.into(),
            media_type: self.media.name(copy.media & MEDIA),
            streamable: copy.media & STREAMABLE != 0,
        })
    }

    /// Nearly every title has one content: that is seen in one pass without a table.
    fn first(&self, title: u32, attached: impl Fn(NodeId) -> bool) -> Option<Found> {
        let mut copies = self.live(title);
        let mut newest = copies.next()?;
        let key = newest.1.key();
        for next in copies {
            if next.1.key() != key {
                return self.tallies(title, attached).into_iter().next();
            }
            newest = newer(newest, next);
        }
        Some(Found { title, newest: newest.0, key, conflict: false })
    }

    fn tallies(&self, title: u32, attached: impl Fn(NodeId) -> bool) -> Vec<Found> {
        let mut tallies: Vec<Tally> = Vec::new();
        for (at, copy) in self.live(title) {
            let (key, node) = (copy.key(), NodeId(copy.node));
            let known = tallies.iter().position(|tally| tally.key == key).unwrap_or_else(|| {
                let modified_ms = copy.modified_ms;
                tallies.push(Tally { key, newest: at, modified_ms, holders: 0, last: None });
                tallies.len() - 1
            });
            let tally = &mut tallies[known];
            if copy.modified_ms > tally.modified_ms {
                (tally.newest, tally.modified_ms) = (at, copy.modified_ms);
            }
            // Copies come by node, so that one look back tells a second volume from a second node.
            if tally.last.replace(node) != Some(node) && attached(node) {
                tally.holders += 1;
            }
        }
        tallies.sort_by_key(|tally| {
            let unhashed = matches!(tally.key, Key::Sized(_));
            (unhashed, Reverse(tally.holders), Reverse(tally.modified_ms), tally.key)
        });
        let conflict = tallies.iter().filter(|tally| matches!(tally.key, Key::Hashed(_))).count() > 1;
        tallies.iter().map(|tally| Found { title, newest: tally.newest, key: tally.key, conflict }).collect()
    }
}

/// The newer of two; the first when they are as old.
fn newer<'a>(a: (u32, &'a Copy), b: (u32, &'a Copy)) -> (u32, &'a Copy) {
    if b.1.modified_ms > a.1.modified_ms { b } else { a }
}
