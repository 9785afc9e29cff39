//! Clients at one address that take all of the master they can get, and honest clients, nodes and operators beside them.

use usher_hostile::{Attack, Flood, Source, honest};
use usher_kit::{eventually, run};

use crate::{cluster::Cluster, parts::clip};

/// Connections of the master in these tests, a fraction of the usual number.
const CONNECTIONS: usize = 512;

/// Honest calls per attack.
const CALLS: usize = 40;

/// A cluster of one node with one title, and the two clients.
fn cluster() -> (Cluster, Source, Source) {
    let limit = CONNECTIONS.to_string();
    let mut cluster = Cluster::with_master(&["--max-connections", &limit, "--cluster-access", "open"]);
    cluster.add("node-1", "B.mp4", clip("B.mp4"));
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    let source = |last| Source::new(&cluster, [127, 0, 0, last]).expect("a source");
    let (honest, hostile) = (source(1), source(2));
    (cluster, honest, hostile)
}

/// Counts honest calls, and lets an operator drain the node and take that back.
fn nobody_notices(cluster: &Cluster, honest: &Source, flood: &Flood, attack: Attack) {
    let before = flood.ended();
    let outcome = honest::resolve(honest, "B.mp4", CALLS, 4).expect("clients");
    assert_eq!(outcome.answered(), CALLS, "{attack:?}: {:?}", outcome.errors);
    for command in ["drain", "undrain"] {
        run(&mut cluster.operate(&[command, "node-1"])).expect(0);
    }
    assert_eq!(cluster.seen("node-1")["state"], "serving", "{attack:?}: the node is still attached");
    // The flood was one all the time.
    eventually("the flood goes on", || flood.ended() > before || flood.open() > 0);
}

#[test]
fn connections_of_one_address_leave_room_for_all_others() {
    let (cluster, honest, hostile) = cluster();
    for attack in [Attack::SilentTcp, Attack::SilentTls, Attack::Pings, Attack::HalfRequests] {
        let flood = Flood::start(&hostile, attack, CONNECTIONS).expect("a flood");
        // The master has closed some of them: there is no place for more.
        eventually("the flood has all places", || flood.ended() > 0 && flood.open() >= CONNECTIONS / 16);
        nobody_notices(&cluster, &honest, &flood, attack);
    }
}

#[test]
fn watchers_of_one_address_leave_room_for_all_others() {
    let (cluster, honest, hostile) = cluster();
    let flood = Flood::start(&hostile, Attack::Watches, 300).expect("a flood");
    eventually("the flood has its share", || flood.ended() > 0 && flood.open() >= 100);
    let outcome = honest::watch(&honest, CALLS, 8).expect("clients");
    assert_eq!(outcome.answered(), CALLS, "{:?}", outcome.errors);
    nobody_notices(&cluster, &honest, &flood, Attack::Watches);
}
