//! Feeds: placement of viewers, relays and publishers.

use usher_proto::{
    PublisherId, SessionId, Title,
    model::{Failed, FeedState, Feeds, Medium, Publish, RelayWanted},
};

use super::*;
use crate::core::feeds::{GRACE as LIVES, RivalPublisher};

const FEED: &str = "live/a";

fn title() -> Title {
    Title::parse(FEED).expect("a title")
}

/// A node's report of the feed.
fn state(test: &TestCluster, publisher: Option<u128>, upstream: Option<usize>) -> FeedState {
    let name = |node: usize| test.cluster.roster().node(test.id(node)).expect("known").name().clone();
    FeedState {
        title: title(),
        publisher: publisher.map(PublisherId),
        upstream: upstream.map(name),
        interrupted: false,
        viewers: 1,
        relays: 0,
        newest: 7,
        started_ms: 0,
        bitrate: Bitrate(10 * MBIT),
        medium: Medium { media_type: "video/mp2t".into(), tracks: Vec::new() },
        window_ms: 60_000,
    }
}

fn tell(test: &mut TestCluster, node: usize, states: Vec<FeedState>) {
    test.cluster.handle_feeds(test.now, test.attachments[node], Feeds(states));
}

/// Three nodes of 1 Gbit/s; the first ingests the feed.
fn on_air() -> TestCluster {
    let mut test = TestCluster::figure_4();
    for attachment in test.attachments.clone() {
        test.cluster.roster.current(attachment).expect("attached").hello.equipment.live_ingest = true;
    }
    let ingest = state(&test, Some(1), None);
    tell(&mut test, 0, vec![ingest]);
    test
}

fn publish(publisher: u128) -> Publish {
    Publish {
        title: title(),
        publisher: PublisherId(publisher),
        rate: None,
        zone: String::new(),
        exclude: Vec::new(),
        failed: Vec::new(),
        take_over: false,
        record: false,
    }
}

fn ingest(test: &mut TestCluster, publish: &Publish) -> Result<IngestSeats, PublishRefused> {
    test.cluster.publish(test.now, publish, &mut test.rng)
}

fn want(test: &mut TestCluster, node: usize, wanted: &RelayWanted) {
    test.cluster.handle_relay_wanted(test.now, test.attachments[node], wanted, &mut test.rng);
}

fn relays(test: &mut TestCluster) -> Vec<(u32, Vec<u32>)> {
    let orders = test.cluster.poll_orders().into_iter();
    let relays = orders.filter_map(|order| match order {
        Order::Relay { node, upstreams, .. } => {
            Some((node.0, upstreams.into_iter().map(|(upstream, _)| upstream.0).collect()))
        }
        _ => None,
    });
    relays.collect()
}

#[test]
fn a_viewer_goes_where_the_feed_is_and_costs_its_rate_there() {
    let mut test = on_air();
    let decision = test.resolve(FEED, |_| {}).expect("on the air");
    assert_eq!((decision.first, decision.relay, decision.content, decision.size), (test.id(0), None, None, 0));
    assert_eq!(decision.rate, Bitrate(11 * MBIT), "as measured, and a tenth");
    assert_eq!((test.level(0), test.level(1)), (11 * MBIT, 0));
    assert!(relays(&mut test).is_empty());
    assert_eq!(why(test.resolve("live/b", |_| {})), NoChoice::NotFound);
}

#[test]
fn a_node_without_the_feed_costs_the_relay_leg_too() {
    let mut test = on_air();
    let exclude = vec![NodeName::parse("node-1").expect("a name")];
    let decision = test.resolve(FEED, |ask| ask.exclude.clone_from(&exclude)).expect("elsewhere");
    assert_ne!(decision.first, test.id(0));
    assert_eq!(decision.relay, Some(test.id(0)));
    let node = decision.first.0 as usize;
    assert_eq!((test.level(node), test.level(0)), (11 * MBIT, 11 * MBIT), "the viewer, and the leg");
    assert_eq!(relays(&mut test), [(decision.first.0, vec![0])]);
    let reason = test.cluster.reason(&decision).expect("known").to_string();
    assert!(reason.contains("relayed from node-1"), "{reason}");
    // After the relay was ordered, no second leg is reserved.
    let legs = test.level(0);
    loop {
        let next = test.resolve(FEED, |ask| ask.exclude.clone_from(&exclude)).expect("elsewhere");
        if next.first == decision.first {
            break assert_eq!((next.relay, test.level(0) - legs <= 11 * MBIT), (None, true));
        }
    }
}

#[test]
fn a_full_ingest_node_hands_on_to_one_that_has_room() {
    let mut test = on_air();
    let mut placed = [0; 3];
    while let Ok(decision) = test.resolve(FEED, |_| {}) {
        placed[decision.first.0 as usize] += 1;
    }
    for node in 0..3 {
        assert!(test.level(node) <= 1000 * MBIT);
    }
    assert!(placed.iter().all(|viewers| *viewers > 80), "{placed:?}: all nodes carry it");
}

#[test]
fn a_relay_without_upstream_gets_another_or_a_refusal() {
    let mut test = on_air();
    let relay = state(&test, None, Some(0));
    tell(&mut test, 1, vec![relay]);
    let failed = |node: &str, code| Failed::new(NodeName::parse(node).expect("a name"), code);
    let wanted = |failed: Vec<Failed>| RelayWanted { title: title(), failed };
    want(&mut test, 2, &wanted(vec![failed("node-1", Code::VerificationFailed)]));
    assert_eq!(relays(&mut test), [(2, vec![1])], "not the one that sent wrong bytes");
    want(&mut test, 1, &wanted(vec![]));
    assert_eq!(relays(&mut test), [(1, vec![0])], "not from below itself");
    let relay = state(&test, None, Some(1));
    tell(&mut test, 2, vec![relay]);
    for _ in 0..20 {
        want(&mut test, 2, &wanted(vec![]));
        let told = relays(&mut test);
        assert!(told == [(2, vec![0])] || told == [(2, vec![1, 0])], "one, and the ingest node: {told:?}");
    }
    want(&mut test, 1, &RelayWanted { title: Title::parse("live/b").expect("a title"), failed: Vec::new() });
    let orders = test.cluster.poll_orders();
    assert!(matches!(orders.as_slice(), [Order::NoRelay { why, .. }] if why.code == Code::NotFound), "{orders:?}");
}

#[test]
fn one_publisher_at_a_time_and_it_comes_back_to_its_node() {
    let mut test = on_air();
    let decide = |test: &mut TestCluster, publish: &Publish| ingest(test, publish);
    let taken = decide(&mut test, &publish(2)).expect_err("another one sends it");
    assert_eq!(Fault::from(&taken).code, Code::Exists);
    let own = decide(&mut test, &publish(1)).expect("its own");
    assert_eq!(own.nodes.first(), Some(&test.id(0)));
    let elsewhere =
        Publish { exclude: vec![NodeName::parse("node-1").expect("a name")], take_over: true, ..publish(2) };
    let other = decide(&mut test, &elsewhere).expect("taken over");
    let node = other.nodes[0];
    assert_ne!(node, test.id(0));
    let second = state(&test, Some(2), None);
    tell(&mut test, node.0 as usize, vec![second]);
    let rival = RivalPublisher { node: test.id(0), title: title(), publisher: PublisherId(1) };
    assert_eq!(test.cluster.poll_orders(), [Order::EndPublisher(rival)]);
    let nobody = Publish { record: true, ..publish(1) };
    assert!(ingest(&mut test, &Publish { take_over: true, ..nobody }).is_err(), "no node records");
}

#[test]
fn a_feed_survives_its_node_for_a_while() {
    let mut test = on_air();
    let attachment = test.attachments[0];
    test.cluster.handle_detach(test.now, attachment);
    assert!(ingest(&mut test, &publish(2)).is_ok(), "no publisher sends it now");
    let wait = |test: &mut TestCluster, seconds| (0..seconds).for_each(|_| test.wait(Duration::from_secs(1)));
    wait(&mut test, LIVES.as_secs() - 2);
    assert!(test.cluster.feeds().get(&title()).is_some());
    wait(&mut test, 4);
    assert_eq!(why(test.resolve(FEED, |_| {})), NoChoice::NotFound);
}

#[test]
fn a_draining_node_hands_off_viewers_and_legs() {
    let mut test = on_air();
    let relay = state(&test, None, Some(0));
    tell(&mut test, 1, vec![relay.clone()]);
    tell(&mut test, 2, vec![relay]);
    let watcher = test.resolve(FEED, |_| {}).expect("on the air");
    let node = watcher.first.0 as usize;
    test.begin(node, watcher.session, FEED, 11 * MBIT);
    let only = test.cluster.only_held_by(test.now, test.id(node));
    assert!(only.is_empty(), "feeds go on anywhere: {only:?}");
    test.cluster.handle_presence(test.now, test.attachments[node], presence(true));
    let mut moved: Vec<SessionId> = Vec::new();
    for _ in 0..5 {
        test.seconds(1);
        moved.extend(test.cluster.poll_orders().into_iter().filter_map(|order| match order {
            Order::Move(step) if step.from == test.id(node) => Some(step.session),
            _ => None,
        }));
    }
    assert!(moved.contains(&watcher.session), "{moved:?}");
}
