//! Bad networks: real fetches through relays that drop datagrams, rebind ports and black-hole a direction.

use std::time::Duration;

use tokio::runtime::Runtime;
use usher_relay::{Direction, Entrance, Settings, UdpRelay};

use usher_kit::{Signal, address_in, eventually};

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
};

/// A relay and what it runs on.
struct Road {
    // Dropped before what it runs on.
    relay: UdpRelay,
    entrance: Entrance,
    _runtime: Runtime,
}

impl Road {
    fn new(up: Settings, down: Settings) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = threads.expect("a runtime");
        let (relay, entrance) = runtime.block_on(async {
            let relay = UdpRelay::start(up, down);
            let entrance = relay.entrance().await.expect("a port");
            (relay, entrance)
        });
        Self { relay, entrance, _runtime: runtime }
    }

    /// Starts a node that clients find at the end of this road.
    fn start_node(&self, cluster: &mut Cluster, node: &str) {
        let advertise = self.entrance.address().to_string();
        cluster.start_node(node, &["--advertise", &advertise]);
        self.entrance.forward_to(address_in(&cluster.node(node).line_with("node started")).expect("an address"));
    }
}

const DELAY: Settings = Settings { delay: Duration::from_millis(5), rate: None, queue: 0, loss_ppm: 0, seed: 0 };

#[test]
fn a_client_whose_port_changes_keeps_its_connection() {
    // Connections are counted, and the master's dial would be one.
    let mut cluster = Cluster::with_master(&["--dial-back", "off"]);
    cluster.add_film("node-1", "film.mp4", 8);
    let road = Road::new(DELAY, DELAY);
    road.start_node(&mut cluster, "node-1");
    cluster.settled(1);
    let url = cluster.url("film.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--limit-rate", "24mbit", "--progress", "json"]);
    for _ in 0..3 {
        let bytes = road.relay.counts(Direction::Down).bytes;
        road.relay.rebind();
        eventually("it goes on over the new port", || {
            road.relay.counts(Direction::Down).bytes > bytes + 500_000 || fetch.seen().contains("\"done\"")
        });
    }
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("film.mp4")), b3(cluster.media("node-1").join("film.mp4")));
    assert!(!fetch.seen().contains("\"lost\""), "{}", fetch.seen());
    cluster.node("node-1").signal(Signal::TERM);
    cluster.node("node-1").wait();
    let log = cluster.node("node-1").seen();
    assert_eq!(log.matches("connection opened").count(), 1, "{log}");
}

#[test]
fn a_fetch_over_a_link_that_loses_is_verified() {
    let mut cluster = Cluster::empty();
    cluster.add("node-1", "B.mp4", clip("B.mp4"));
    let lossy = |seed| Settings { loss_ppm: 50_000, seed, ..DELAY };
    let road = Road::new(lossy(1), lossy(2));
    road.start_node(&mut cluster, "node-1");
    cluster.settled(1);
    cluster.run(&["fetch", &cluster.url("B.mp4")]).expect(0);
    assert_eq!(b3(cluster.path().join("B.mp4")), b3(clip("B.mp4")));
    assert!(road.relay.counts(Direction::Down).lost > 0);
}

#[test]
fn a_node_that_is_heard_no_more_is_left_for_another() {
    let mut cluster = Cluster::empty();
    let roads = ["node-1", "node-2"].map(|node| {
        cluster.add_film(node, "film.mp4", 8);
        let road = Road::new(DELAY, DELAY);
        road.start_node(&mut cluster, node);
        (node, road)
    });
    cluster.settled(2);
    let url = cluster.url("film.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--limit-rate", "24mbit", "--progress", "json"]);
    let line = fetch.line_with("\"progress\"");
    let at = usize::from(line.contains("node-2"));
    // The client's datagrams still reach the node.
    roads[at].1.relay.set_hole(Direction::Down, true);
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    let other = roads[1 - at].0;
    assert!(fetch.seen().contains("\"lost\"") && fetch.seen().contains(other), "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("film.mp4")), b3(cluster.media(other).join("film.mp4")));
}
