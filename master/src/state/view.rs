//! Messages of `usher.v1` that show the core to clients and operators. Read-only.

use prost_types::Timestamp;
use tokio::sync::broadcast;
use usher_proto::{NodeName, Title, feed::FeedKey, model::What, pb::v1, units};

use super::{SharedState, now};
use crate::core::{
    NodeId, Now,
    balancer::NoChoice,
    catalog::TitleVersion,
    cluster::Cluster,
    feeds::Feed,
    roster::{self, Node},
};

use std::time::Duration;

/// Titles listed per hold of the lock: about a third of a millisecond.
const LIST_STEP: usize = 256;

impl SharedState {
    /// All nodes, by name.
    pub(crate) fn nodes(&self) -> Vec<v1::Node> {
        let inner = self.lock();
        let now = now();
        let nodes = inner.cluster.roster().nodes();
        let mut nodes: Vec<v1::Node> = nodes.map(|(id, known)| node(&inner.cluster, now, id, known)).collect();
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// One node with its history.
    pub(crate) fn node(&self, name: &NodeName) -> Option<v1::GetNodeResponse> {
        let inner = self.lock();
        let now = now();
        let id = inner.cluster.roster().id(name)?;
        let known = inner.cluster.roster().node(id)?;
        let history = &known.history;
        let mean = |seconds| history.mean(now.instant, Duration::from_secs(seconds));
        let samples = history.samples().map(|sample| v1::Sample {
            at: Some(timestamp(sample.at.unix_ms)),
            egress_bps: sample.egress,
            sessions: sample.sessions,
        });
        let history = v1::History {
            mean_10s_bps: mean(10),
            mean_1m_bps: mean(60),
            mean_5m_bps: mean(300),
            p95_bps: history.percentile_95(),
            samples: samples.collect(),
        };
        Some(v1::GetNodeResponse { node: Some(node(&inner.cluster, now, id, known)), history: Some(history) })
    }

    /// The current roster, and a receiver of later changes.
    pub(crate) fn watch(&self) -> (Vec<v1::WatchResponse>, broadcast::Receiver<v1::WatchResponse>) {
        // Events are sent under the lock, so none is lost between the two.
        let inner = self.lock();
        let now = now();
        let nodes = inner.cluster.roster().nodes().map(|(id, known)| v1::WatchResponse {
            node: Some(node(&inner.cluster, now, id, known)),
            change: known.state.as_str().to_owned(),
        });
        (nodes.collect(), self.events.subscribe())
    }

    /// Up to `limit` titles with `prefix` that follow `after`, until `take` returns false; and whether there are more.
    pub(crate) async fn titles(
        &self,
        prefix: &str,
        after: Option<Title>,
        limit: usize,
        mut take: impl FnMut(&v1::Title) -> bool,
    ) -> (Vec<v1::Title>, bool) {
        let mut titles: Vec<v1::Title> = Vec::new();
        let mut after = after.map(|title| title.to_string());
        loop {
            let step = LIST_STEP.min(limit - titles.len());
            let listed: Vec<v1::Title> = {
                let inner = self.lock();
                let cluster = &inner.cluster;
                // One extra title shows whether the page is the last.
                let files = cluster.list(prefix, after.as_deref()).take(step + 1);
                let mut listed: Vec<v1::Title> = files.filter_map(|found| title(cluster, &found)).collect();
                let feeds = cluster.feeds().list(prefix, after.as_deref()).take(step + 1);
                let before = listed.len();
                listed.extend(feeds.map(|(name, feed)| live_title(cluster, name, feed, self.feed_key(name))));
                if listed.len() > before {
                    listed.sort_by(|a, b| a.title.cmp(&b.title));
                    listed.truncate(step + 1);
                }
                listed
            };
            let more = listed.len() > step;
            for title in listed.into_iter().take(step) {
                if !titles.is_empty() && !take(&title) {
                    return (titles, true);
                }
                titles.push(title);
            }
            if !more || titles.len() == limit {
                return (titles, more);
            }
            after = titles.last().map(|title| title.title.clone());
            tokio::task::yield_now().await;
        }
    }

    /// Why a title that is not in the catalog is unavailable.
    pub(crate) fn nowhere(&self) -> NoChoice {
        let gathering = self.lock().cluster.is_gathering(now().instant);
        if gathering { NoChoice::Gathering } else { NoChoice::NotFound }
    }

    /// Every content of a title, or every title of a content; empty if there is none.
    pub(crate) fn locate(&self, what: &What) -> Vec<v1::Version> {
        let inner = self.lock();
        let cluster = &inner.cluster;
        if let What::Title(name) = what
            && let Some(feed) = cluster.feeds().get(name)
        {
            let copies = feed.carriers().filter_map(|(node, carried)| {
                let node = cluster.roster().node(node)?;
                Some(v1::Copy {
                    node: node.name().to_string(),
                    volume: 0,
                    modified_at: Some(signed_timestamp(carried.started_ms)),
                    state: state(node.state).into(),
                })
            });
            let title = live_title(cluster, name, feed, self.feed_key(name));
            return vec![v1::Version { title: Some(title), copies: copies.collect() }];
        }
        versions(cluster, what)
    }
}

/// Every content of a title, or every title of a content, with their copies.
pub(super) fn versions(cluster: &Cluster, what: &What) -> Vec<v1::Version> {
    let mut found = Vec::new();
    match what {
        What::Title(title) => found = cluster.versions(title),
        What::Content(content) => cluster.catalog().by_content(content, &mut found),
    }
    let version = |found: &TitleVersion| {
        let copies = cluster.catalog().copies(found).filter_map(|copy| {
            let node = cluster.roster().node(copy.node)?;
            Some(v1::Copy {
                node: node.name().to_string(),
                volume: copy.volume.into(),
                modified_at: Some(signed_timestamp(copy.modified_ms)),
                state: state(node.state).into(),
            })
        });
        Some(v1::Version { title: Some(title(cluster, found)?), copies: copies.collect() })
    };
    found.iter().filter_map(version).collect()
}

/// A node as a message.
pub(super) fn node(cluster: &Cluster, now: Now, id: NodeId, node: &Node) -> v1::Node {
    let (booked, headroom) = cluster.load(now, id);
    // A detached node sends nothing, whatever its last report says.
    let there = node.state != roster::NodeState::Gone;
    let age = node.reported_at.map_or(0, |at| now.instant.saturating_duration_since(at).as_millis());
    v1::Node {
        drain_left_ms: units::millis(cluster.drain_left(now, id)),
        name: node.name().to_string(),
        state: state(node.state).into(),
        zone: node.hello.zone.clone(),
        addresses: node.hello.presence.addresses.iter().map(ToString::to_string).collect(),
        capacity_bps: node.hello.capacity.0,
        measured_bps: if there { node.measured() } else { 0 },
        booked_bps: booked,
        headroom_bps: headroom,
        egress_bps: if there { node.report.egress.0 } else { 0 },
        sessions: node.report.sessions,
        titles: cluster.catalog().copies_of(id),
        rejected_files: node.rejected_files,
        damaged_files: node.damaged_files,
        attached_at: Some(timestamp(node.attached_at.unix_ms)),
        report_age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        version: node.hello.version.clone(),
        boot_id: node.hello.boot.to_string(),
        sent_bytes: node.report.sent_bytes,
    }
}

fn title(cluster: &Cluster, found: &TitleVersion) -> Option<v1::Title> {
    let facts = cluster.catalog().facts(found)?;
    let names = cluster.catalog().holders(found).filter_map(|id| Some(cluster.roster().node(id)?.name().to_string()));
    let mut nodes: Vec<String> = names.collect();
    nodes.sort_unstable();
    Some(v1::Title {
        title: facts.title.to_string(),
        content_id: facts.content.map(|content| content.to_string()).unwrap_or_default(),
        size: facts.size,
        media_type: facts.media_type.to_owned(),
        duration_ms: facts.duration_ms,
        bitrate_bps: facts.bitrate.0,
        streamable: facts.streamable,
        nodes,
        conflict: found.conflict,
        live: None,
    })
}

/// A feed as a title.
fn live_title(cluster: &Cluster, name: &Title, feed: &Feed, key: FeedKey) -> v1::Title {
    let names = feed.carriers().filter_map(|(node, _)| Some(cluster.roster().node(node)?.name().to_string()));
    let mut nodes: Vec<String> = names.collect();
    nodes.sort_unstable();
    let state = feed.state();
    v1::Title {
        title: name.to_string(),
        media_type: state.map(|state| state.medium.media_type.clone()).unwrap_or_default(),
        bitrate_bps: state.map_or(0, |state| state.bitrate.0),
        streamable: true,
        nodes,
        live: Some(live(cluster, feed, key)),
        ..v1::Title::default()
    }
}

/// A feed as a message.
pub(super) fn live(cluster: &Cluster, feed: &Feed, key: FeedKey) -> v1::Live {
    let state = feed.state();
    let ingest = feed.ingest();
    let node = ingest.and_then(|(node, _)| cluster.roster().node(node));
    v1::Live {
        key: key.0.to_vec(),
        started_ms: state.map_or(0, |state| state.started_ms),
        viewers: feed.viewers(),
        window_ms: state.map_or(0, |state| state.window_ms),
        tracks: state.map(|state| state.medium.tracks.clone()).unwrap_or_default(),
        interrupted: ingest.is_none_or(|(_, state)| state.interrupted) || node.is_none_or(|node| !node.attached()),
        ingest: node.map(|node| node.name().to_string()).unwrap_or_default(),
    }
}

fn state(state: roster::NodeState) -> v1::NodeState {
    match state {
        roster::NodeState::Serving => v1::NodeState::Serving,
        roster::NodeState::Draining => v1::NodeState::Draining,
        roster::NodeState::Stale => v1::NodeState::Stale,
        roster::NodeState::Gone => v1::NodeState::Gone,
    }
}

/// Unix milliseconds as a message.
pub(crate) fn timestamp(unix_ms: u64) -> Timestamp {
    signed_timestamp(i64::try_from(unix_ms).unwrap_or(i64::MAX))
}

fn signed_timestamp(unix_ms: i64) -> Timestamp {
    // The remainder is below 1000, so its nanoseconds fit.
    let nanos = i32::try_from(unix_ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    Timestamp { seconds: unix_ms.div_euclid(1000), nanos }
}
