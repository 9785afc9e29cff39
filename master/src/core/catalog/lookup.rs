//! Queries: by name, by content, by prefix, and which content a name means when it has several.

use std::{cmp::Reverse, ops::Bound};

use usher_proto::{Bitrate, ContentId, Title};

use super::{
    Catalog, NodeId, TitleId,
    copy::{ContentIdentity, CopyView, MEDIA, STREAMABLE, StoredCopy},
};

/// One content of one title. Stays valid while the title exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentKey {
    /// The title.
    pub id: TitleId,
    /// Its content.
    pub identity: ContentIdentity,
}

/// One content of one title. Valid until the catalog changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TitleVersion {
    pub(super) title: u32,
    /// Its newest copy, the source of its metadata.
    pub(super) newest: u32,
    /// Its content.
    pub identity: ContentIdentity,
    /// Whether the title has more than one hashed content.
    pub conflict: bool,
}

/// Metadata of a content under a title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TitleMetadata<'a> {
    /// The name.
    pub title: &'a Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes.
    pub size: u64,
    /// Mean rate; 0 if the container does not state it.
    pub bitrate: Bitrate,
    /// Milliseconds; 0 when unknown.
    pub duration_ms: u64,
    /// For example `video/mp4`.
    pub media_type: &'a str,
    /// Whether it plays before it is complete.
    pub streamable: bool,
}

/// Names examined per content: a placeholder file may have a hundred thousand names.
const MAX_NAMES: usize = 64;

/// Votes of nodes for one content of a title.
struct VersionVotes {
    identity: ContentIdentity,
    newest: u32,
    modified_ms: i64,
    holders: usize,
    /// The holder that the master has known for longest.
    first: NodeId,
    last: Option<NodeId>,
}

impl Catalog {
    /// Returns the content for a request by name: the one that an operator chose, or that of the title's owner. Without
    /// either, that of most attached nodes, then of the node known for longest; an unhashed content only if none is
    /// hashed. Times of files do not count, since a node may state any.
    pub fn by_title(&self, title: &str, attached: impl Fn(NodeId) -> bool) -> Option<TitleVersion> {
        self.first(self.number(title)?, attached)
    }

    /// Appends the titles of a content to `found`: at most 64, in no particular order.
    pub fn by_content(&self, content: &ContentId, found: &mut Vec<TitleVersion>) {
        let from = super::index_key(content, 0);
        for line in self.contents.range(from..=from | u64::from(u32::MAX)).take(MAX_NAMES) {
            // The low half is the title's number.
            let title = (line & u64::from(u32::MAX)) as u32;
            let mut copies = self.live(title).filter(|(_, copy)| copy.hashed() == Some(*content));
            let Some(first) = copies.next() else { continue };
            let newest = copies.fold(first, newer).0;
            found.push(TitleVersion {
                title,
                newest,
                identity: ContentIdentity::Hashed(*content),
                conflict: self.conflict(title),
            });
        }
    }

    /// Returns every content of a title, the default one first.
    pub fn versions(&self, title: &str, attached: impl Fn(NodeId) -> bool) -> Vec<TitleVersion> {
        let Some(title) = self.number(title) else { return Vec::new() };
        self.version_votes(title, attached)
    }

    /// Titles that start with `prefix` and follow `after`, in byte order.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        attached: impl Fn(NodeId) -> bool + 'a + std::marker::Copy,
    ) -> impl Iterator<Item = TitleVersion> + 'a {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.names
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .filter_map(move |(_, &title)| self.first(title, attached))
    }

    /// Visits the default content of up to `limit` titles from a position on (0 is the beginning). Returns the next
    /// position, or `None` at the end. Examines at most `limit` slots.
    pub fn visit_titles(&self, position: usize, limit: usize, mut visit: impl FnMut(ContentKey)) -> Option<usize> {
        let end = position.saturating_add(limit).min(self.entries.len());
        for entry in position..end {
            let Ok(entry) = u32::try_from(entry) else { continue };
            if let Some(found) = self.first(entry, |_| true) {
                visit(self.key(&found));
            }
        }
        (end < self.entries.len()).then_some(end)
    }

    /// The nodes that hold it, each once, in ascending order.
    pub fn holders(&self, found: &TitleVersion) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        self.copies(found).filter_map(move |copy| (last.replace(copy.node) != Some(copy.node)).then_some(copy.node))
    }

    /// Its copies, by node and volume.
    pub fn copies(&self, found: &TitleVersion) -> impl Iterator<Item = CopyView> {
        let identity = found.identity;
        self.live(found.title).filter(move |(_, copy)| copy.identity() == identity).map(|(_, copy)| copy.view())
    }

    /// Returns its key, which outlives catalog changes.
    pub fn key(&self, found: &TitleVersion) -> ContentKey {
        ContentKey {
            id: TitleId { entry: found.title, born: self.entries[found.title].born },
            identity: found.identity,
        }
    }

    /// Finds a content of a title by name, while a copy of it exists.
    pub fn under(&self, title: &str, identity: ContentIdentity) -> Option<TitleVersion> {
        let entry = self.number(title)?;
        self.found(TitleId { entry, born: self.entries[entry].born }, identity)
    }

    /// Finds a content of a title by number, while a copy of it exists.
    pub fn found(&self, id: TitleId, identity: ContentIdentity) -> Option<TitleVersion> {
        self.entries.slot(id.entry).filter(|entry| entry.born == id.born && entry.name.is_some())?;
        let mut copies = self.live(id.entry).filter(|(_, copy)| copy.identity() == identity);
        let first = copies.next()?;
        let newest = copies.fold(first, newer).0;
        Some(TitleVersion { title: id.entry, newest, identity, conflict: self.conflict(id.entry) })
    }

    /// The copies of a content, by node and volume; none once its title is gone.
    pub fn copies_of_key(&self, key: ContentKey) -> impl Iterator<Item = CopyView> {
        let entry = self.entries.slot(key.id.entry).filter(|entry| entry.born == key.id.born && entry.name.is_some());
        let copies = entry.into_iter().flat_map(move |_| self.live(key.id.entry));
        copies.filter(move |(_, copy)| copy.identity() == key.identity).map(|(_, copy)| copy.view())
    }

    /// Returns its metadata.
    pub fn facts(&self, found: &TitleVersion) -> Option<TitleMetadata<'_>> {
        let copy = self.copies.slot(found.newest)?;
        Some(TitleMetadata {
            title: self.entries.slot(found.title)?.name.as_ref()?,
            content: copy.hashed(),
            size: copy.size,
            bitrate: Bitrate(copy.bitrate),
            duration_ms: copy.duration_ms.into(),
            media_type: self.media.name(copy.media & MEDIA),
            streamable: copy.media & STREAMABLE != 0,
        })
    }

    /// Nearly every title has one content; one pass without a table finds that.
    fn first(&self, title: u32, attached: impl Fn(NodeId) -> bool) -> Option<TitleVersion> {
        let mut copies = self.live(title);
        let mut newest = copies.next()?;
        let identity = newest.1.identity();
        for next in copies {
            if next.1.identity() != identity {
                return self.version_votes(title, attached).into_iter().next();
            }
            newest = newer(newest, next);
        }
        Some(TitleVersion { title, newest: newest.0, identity, conflict: false })
    }

    fn version_votes(&self, title: u32, attached: impl Fn(NodeId) -> bool) -> Vec<TitleVersion> {
        let mut version_votes: Vec<VersionVotes> = Vec::new();
        for (at, copy) in self.live(title) {
            let (identity, node) = (copy.identity(), NodeId(copy.node));
            let known = version_votes.iter().position(|votes| votes.identity == identity).unwrap_or_else(|| {
                let modified_ms = copy.modified_ms;
                let votes = VersionVotes { identity, newest: at, modified_ms, holders: 0, first: node, last: None };
                version_votes.push(votes);
                version_votes.len() - 1
            });
            let votes = &mut version_votes[known];
            if copy.modified_ms > votes.modified_ms {
                (votes.newest, votes.modified_ms) = (at, copy.modified_ms);
            }
            // Copies are ordered by node, so comparing with the previous one detects a second volume of a node.
            if votes.last.replace(node) != Some(node) && attached(node) {
                votes.holders += 1;
            }
        }
        let chosen = self.chosen(title);
        version_votes.sort_by_key(|votes| {
            let unhashed = matches!(votes.identity, ContentIdentity::Sized(_));
            (chosen != Some(votes.identity), unhashed, Reverse(votes.holders), votes.first, votes.identity)
        });
        let conflict =
            version_votes.iter().filter(|votes| matches!(votes.identity, ContentIdentity::Hashed(_))).count() > 1;
        version_votes
            .iter()
            .map(|votes| TitleVersion { title, newest: votes.newest, identity: votes.identity, conflict })
            .collect()
    }
}

/// The newer of two copies; the first if they are equally old.
fn newer<'a>(a: (u32, &'a StoredCopy), b: (u32, &'a StoredCopy)) -> (u32, &'a StoredCopy) {
    if b.1.modified_ms > a.1.modified_ms { b } else { a }
}
