//! Attacks on a node from one address, and what honest clients at another address get beside them.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{runtime::Runtime, task::JoinSet, time};
use usher_hostile::{Client, HalfOpen, Reading, client, half_open::Answer};
use usher_kit::eventually;

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
};

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Sessions that the node has capacity for.
const SEATS: u64 = 20;

/// Capacity of the node in bit/s.
const CAPACITY: u64 = 73_000_000;

/// Time between two requests of an honest client that was refused.
const AGAIN: Duration = Duration::from_millis(100);

/// A node with room for [`SEATS`] sessions of `film.mp4`, and the rate of one in bit/s.
fn cluster() -> (Cluster, u64) {
    let mut cluster = Cluster::empty();
    // More than any window holds.
    cluster.add_film("node-1", "film.mp4", 8);
    cluster.start_node("node-1", &["--capacity", &format!("{CAPACITY}bit")]);
    cluster.settled(1);
    let rate = cluster.titles()[0]["bitrate_bps"].as_u64().expect("a rate");
    assert_eq!(CAPACITY / rate, SEATS);
    (cluster, rate)
}

async fn client(cluster: &Cluster, from: Ipv4Addr, window: u32) -> Client {
    Client::new(from, &cluster.address, &cluster.ca(), window).await.expect("a client")
}

/// Fills the node with sessions that are read in this way, if at all. Honest clients then play with nine tenths of its
/// capacity at the same time.
fn honest_clients_get_the_capacity_beside(window: u32, reading: Option<Reading>) {
    let (cluster, rate) = cluster();
    let runtime = Runtime::new().expect("a runtime");
    let mut held = JoinSet::new();
    runtime.block_on(async {
        let mut attacker = client(&cluster, ATTACKER, window).await;
        // As many as it is given, and a few more while the first ones lose their rates already.
        for _ in 0..2 * SEATS {
            let mut session = match attacker.open(client::play("film.mp4")).await {
                Ok(session) => session,
                Err(error) => {
                    assert!(!held.is_empty(), "{error:#}");
                    break;
                }
            };
            held.spawn(async move {
                match reading {
                    Some(reading) => session.read(reading).await,
                    None => std::future::pending().await,
                }
            });
        }
        let mut honest = client(&cluster, HONEST, client::USUAL_WINDOW).await;
        let (mut players, mut tries) = (JoinSet::new(), 0);
        while (players.len() as u64) < SEATS * 9 / 10 {
            match honest.begin(client::play("film.mp4")).await {
                // More slowly than a player, so that all play at the same time.
                Ok(mut session) => drop(players.spawn(async move { session.read(Reading::Rate(rate / 3)).await })),
                Err(error) => {
                    tries += 1;
                    assert!(tries < 600, "{} honest sessions, and then: {error:#}", players.len());
                    time::sleep(AGAIN).await;
                }
            }
        }
        eventually("their rates are reserved", || {
            cluster.seen("node-1")["booked_bps"].as_u64().is_some_and(|booked| booked >= rate * SEATS * 9 / 10)
        });
        assert!(players.try_join_next().is_none(), "all of them play");
        held.abort_all();
    });
}

#[test]
fn sessions_that_never_read_do_not_keep_their_capacity() {
    honest_clients_get_the_capacity_beside(1, None);
}

#[test]
fn sessions_that_drip_do_not_keep_their_capacity() {
    honest_clients_get_the_capacity_beside(64 << 10, Some(Reading::Drip));
}

#[test]
fn handshakes_that_are_never_finished_keep_no_other_address_out() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    let runtime = Runtime::new().expect("a runtime");
    let seat = runtime.block_on(async {
        let mut attacker = client(&cluster, ATTACKER, 1).await;
        attacker.resolve(client::play("B.mp4")).await.expect("a seat")
    });
    let node = client::address(&seat).expect("an address");
    let mut half_open = HalfOpen::new(ATTACKER, node, seat.pins).expect("a socket");
    let mut begin = |count: usize| (0..count).filter(|_| half_open.begin().expect("a socket") == Answer::Begun).count();
    let mut begun = begin(1100);
    runtime.block_on(async {
        let mut honest = client(&cluster, HONEST, client::USUAL_WINDOW).await;
        // The first dial is served: this client does not try again.
        honest.open(client::play("B.mp4")).await.expect("a session beside the attack");
    });
    // It goes on meanwhile.
    let mut fetch = cluster.start(&["fetch", &cluster.url("B.mp4")]);
    begun += begin(200);
    assert!(begun >= 64, "the attack is one: {begun}");
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("B.mp4")), b3(clip("B.mp4")));
}
