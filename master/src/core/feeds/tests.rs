//! Reports of nodes in every order.

use proptest::prelude::*;
use usher_proto::{NodeName, model::Medium};

use super::*;

fn title(name: &str) -> Title {
    Title::parse(name).expect("a title")
}

fn name(node: u32) -> NodeName {
    NodeName::parse(&format!("n{node}")).expect("a name")
}

/// The number in a node's name.
fn id(state: &FeedState) -> Option<NodeId> {
    state.upstream.as_ref()?.as_str().strip_prefix('n')?.parse().ok().map(NodeId)
}

fn state(publisher: Option<u128>, upstream: Option<u32>) -> FeedState {
    FeedState {
        title: title("live/a"),
        publisher: publisher.map(PublisherId),
        upstream: upstream.map(name),
        interrupted: publisher.is_none() && upstream.is_none(),
        viewers: 2,
        relays: 0,
        newest: 1,
        started_ms: 0,
        bitrate: Bitrate(1000),
        medium: Medium { media_type: "video/mp2t".into(), tracks: Vec::new() },
        window_ms: 60_000,
    }
}

fn on_air(feeds: &Feeds) -> bool {
    feeds.get(&title("live/a")).is_some()
}

#[test]
fn a_feed_lives_while_its_node_reports_it() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    assert!(feeds.handle_update(now, NodeId(1), vec![state(Some(1), None)]).is_empty());
    feeds.handle_update(now, NodeId(2), vec![state(None, Some(1))]);
    let feed = feeds.get(&title("live/a")).expect("on the air");
    assert_eq!(
        (feed.ingest().map(|(node, _)| node), feed.viewers(), feed.rate()),
        (Some(NodeId(1)), 4, Some(Bitrate(1100)))
    );
    assert_eq!(feeds.list("live/", None).count(), 1);
    assert_eq!(feeds.list("live/", Some("live/a")).count() + feeds.list("films/", None).count(), 0);
    feeds.handle_update(now, NodeId(1), vec![]);
    assert!(!on_air(&feeds), "its publisher ended it");
}

#[test]
fn a_lost_ingest_node_has_a_grace_period() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(1), vec![state(Some(1), None)]);
    feeds.handle_update(now, NodeId(2), vec![state(None, Some(1))]);
    feeds.handle_detach(now, NodeId(1));
    feeds.handle_timeout(now + GRACE / 2, |_| true);
    assert!(on_air(&feeds));
    // Its publisher reconnects at another node in time.
    feeds.handle_update(now + GRACE / 2, NodeId(2), vec![state(Some(1), None)]);
    feeds.handle_timeout(now + GRACE * 2, |_| true);
    assert_eq!(feeds.get(&title("live/a")).and_then(Feed::ingest).map(|(node, _)| node), Some(NodeId(2)));
    feeds.handle_detach(now, NodeId(2));
    feeds.handle_timeout(now + GRACE, |_| true);
    assert!(!on_air(&feeds));
}

#[test]
fn a_publisher_that_goes_from_node_to_node_is_no_rival_of_its_own() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(2), vec![state(Some(1), None)]);
    feeds.handle_detach(now, NodeId(2));
    assert!(
        feeds.handle_update(now, NodeId(1), vec![state(Some(1), None)]).is_empty(),
        "the lost node is asked nothing"
    );
    let rivals = feeds.handle_update(now, NodeId(2), vec![state(Some(1), None)]);
    assert_eq!(
        rivals.into_iter().map(|rival| rival.node).collect::<Vec<_>>(),
        [NodeId(1)],
        "the node that reported last keeps it"
    );
}

#[test]
fn relays_may_report_before_the_ingest_node() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(2), vec![state(None, Some(1))]);
    feeds.handle_timeout(now + GRACE / 2, |_| true);
    assert!(on_air(&feeds));
    feeds.handle_timeout(now + GRACE, |_| true);
    assert!(!on_air(&feeds), "no node ingests it");
}

#[test]
fn of_two_publishers_the_one_that_was_sent_last_stays() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(1), vec![state(Some(1), None)]);
    feeds.handle_published(&title("live/a"), PublisherId(2));
    let rivals = feeds.handle_update(now, NodeId(2), vec![state(Some(2), None)]);
    assert_eq!(rivals, [RivalPublisher { node: NodeId(1), title: title("live/a"), publisher: PublisherId(1) }]);
    let away = FeedState { interrupted: true, ..state(Some(1), None) };
    assert!(feeds.handle_update(now, NodeId(1), vec![away]).is_empty(), "it has gone");
}

#[test]
fn no_upstream_is_below_the_node_or_too_far() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(0), vec![state(Some(1), None)]);
    for node in 1..=4 {
        feeds.handle_update(now, NodeId(node), vec![state(None, Some(node - 1))]);
    }
    let feed = feeds.get(&title("live/a")).expect("on the air");
    let upstreams = |to: u32| feed.upstreams(NodeId(to), &id).into_iter().map(|(node, _)| node.0).collect::<Vec<_>>();
    assert_eq!(upstreams(9), [0, 1, 2], "a fourth leg is one too many");
    assert_eq!(upstreams(2), [0, 1]);
    assert_eq!(upstreams(1), [0]);
    assert_eq!(upstreams(0), Vec::<u32>::new(), "all have it from there");
}

#[test]
fn an_order_counts_until_the_node_says_otherwise() {
    let (now, mut feeds) = (Instant::now(), Feeds::default());
    feeds.handle_update(now, NodeId(0), vec![state(Some(1), None)]);
    for node in [1, 2] {
        feeds.handle_update(now, NodeId(node), vec![state(None, Some(0))]);
    }
    feeds.handle_ordered(now, &title("live/a"), NodeId(1), NodeId(2));
    let upstreams = |feeds: &Feeds| feeds.get(&title("live/a")).expect("on the air").upstreams(NodeId(2), &id);
    assert_eq!(upstreams(&feeds), [(NodeId(0), 0)]);
    feeds.handle_timeout(now + ORDERED, |_| true);
    assert_eq!(upstreams(&feeds), [(NodeId(0), 0), (NodeId(1), 1)]);
}

#[test]
fn sessions_are_known_while_the_ledger_has_them() {
    let mut feeds = Feeds::default();
    let used = FeedSession { title: title("live/a"), to: None };
    for session in 1..=3 {
        feeds.add_session(SessionId(session), used.clone());
    }
    feeds.remove_session(SessionId(1));
    feeds.handle_timeout(Instant::now(), |session| session == SessionId(2));
    assert_eq!(feeds.sessions().map(|(session, _)| session.0).collect::<Vec<_>>(), [2]);
    assert_eq!(feeds.session(SessionId(2)), Some(&used));
}

proptest! {
    /// For every sequence of reports and orders, following upstreams leads to the ingest node.
    #[test]
    fn no_order_makes_a_circle(
        steps in proptest::collection::vec((0..6_u32, 0..6_u32, 0..4_u8), 0..80),
    ) {
        let (now, mut feeds) = (Instant::now(), Feeds::default());
        feeds.handle_update(now, NodeId(0), vec![state(Some(1), None)]);
        for (node, other, what) in steps {
            match what {
                // It reports its ordered upstream, or nothing.
                0 if node != 0 => {
                    let feed = feeds.get(&title("live/a")).expect("on the air");
                    let upstream = feed.upstream(NodeId(node), id);
                    feeds.handle_update(now, NodeId(node), vec![state(None, upstream.map(|node| node.0))]);
                }
                1 if node != 0 => drop(feeds.handle_update(now, NodeId(node), vec![])),
                _ => {
                    let feed = feeds.get(&title("live/a")).expect("on the air");
                    let upstreams = feed.upstreams(NodeId(node), &id);
                    let chosen = upstreams.get(other as usize % upstreams.len().max(1)).copied();
                    if let Some((upstream, _)) = chosen.filter(|_| node != 0) {
                        feeds.handle_ordered(now, &title("live/a"), NodeId(node), upstream);
                        feeds.handle_update(now, NodeId(node), vec![state(None, Some(upstream.0))]);
                    }
                }
            }
            let feed = feeds.get(&title("live/a")).expect("on the air");
            for start in 0..6 {
                let (mut at, mut legs) = (Some(NodeId(start)), 0);
                while let Some(node) = at.filter(|node| node.0 != 0) {
                    at = feed.upstream(node, id);
                    legs += 1;
                    prop_assert!(legs <= 6, "a circle from {start}");
                }
            }
        }
    }
}
