//! A viewer over a network in memory, on a paused clock: gaps in playback when nodes freeze or paths lose one direction. The
//! results do not depend on the load of the machine.

use std::{net::SocketAddr, time::SystemTime};

use quinn::{EndpointConfig, TokioRuntime};
use tokio::{runtime::Handle, time::Instant};
use usher_certs::Authority as Cluster;
use usher_proto::Bitrate;
use usher_relay::{
    core::lane::Settings,
    memory::{Network, Socket},
};
use usher_session::{ConnectionSettings, Pool};

use super::*;
use crate::{
    driver::{self, Connector, Context},
    master::{Answer, Master as Asked},
};

/// Groups of the title. A node sends one every 100 ms, 5.2 Mbit/s, a quarter above the title's rate.
const GROUPS: u64 = 60;

/// The title's rate.
const RATE: Bitrate = Bitrate(4_200_000);

/// A failure of a node or of the path to it, with its beginning and end in milliseconds.
#[derive(Clone, Copy, Debug)]
enum PathFault {
    /// The node stops.
    Freeze { node: usize, from: u64, to: u64 },
    /// The node receives nothing.
    Deaf { node: usize, from: u64, to: u64 },
}

/// Result of a playback.
#[derive(Debug)]
struct Observation {
    /// Longest time without new bytes, after the first.
    gap: Duration,
    took: Duration,
    /// Number of sessions at each node.
    sessions: Vec<usize>,
    /// Bytes that the nodes wrote to streams beyond the title's size.
    extra: u64,
}

fn listening(socket: Arc<Socket>, server: quinn::ServerConfig) -> quinn::Endpoint {
    let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).expect("an endpoint")
}

/// A master that does not exist: a viewer that needs it fails or waits.
fn away() -> Asked {
    let pem = Cluster::create("test", SystemTime::now()).expect("makes").ca_pem().to_owned();
    let authority = crate::Authority { pem, source: "/the/ca.pem".into() };
    let address = Address { host: "127.0.0.1".into(), port: 1 };
    Asked::new(address, authority, None, None, 1).expect("a master")
}

async fn watch(seed: u64, loss_ppm: u32, nodes: usize, faults: &[PathFault]) -> Observation {
    let network = Network::default();
    let link = |seed| Settings { delay: Duration::from_millis(20), loss_ppm, seed, ..Settings::default() };
    let data = media(GROUPS, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let started: Vec<(TestNode, SocketAddr)> = (0..nodes)
        .map(|number| {
            let socket = network.host(link(seed * 10 + number as u64));
            let address = socket.address();
            let listen = |config| listening(socket, config);
            (TestNode::listening(&format!("n{number}"), &titles, Behaviour::Slow(100), listen), address)
        })
        .collect();
    let near = network.host(link(seed * 10 + 9));
    let endpoint = usher_transport::Endpoint::new(&Handle::current(), near, None).expect("an endpoint");
    let pool = Arc::new(Pool::over(ConnectionSettings::default(), endpoint));
    let seats =
        started.iter().map(|(node, _)| TestSeat::from(node).to_pb(TITLE).try_into().expect("a good seat")).collect();
    let answer = Answer {
        title: Title::parse(TITLE).expect("valid"),
        content: Some(content(&data).parse().expect("a content id")),
        size: data.len() as u64,
        rate: RATE,
        seats,
        reason: String::new(),
        live: None,
        request_id: String::new(),
    };
    for fault in faults {
        let (PathFault::Freeze { node, from, to } | PathFault::Deaf { node, from, to }) = *fault;
        let (network, address, freeze) = (network.clone(), started[node].1, matches!(fault, PathFault::Freeze { .. }));
        tokio::spawn(async move {
            for (after, on) in [(from, true), (to - from, false)] {
                tokio::time::sleep(Duration::from_millis(after)).await;
                if freeze { network.set_frozen(address, on) } else { network.set_hole(address, on) }
            }
        });
    }
    let began = Instant::now();
    let times = Mutex::new(Vec::new());
    let observer = |progress: &FetchEvent| {
        if matches!(progress, FetchEvent::Progress { received, .. } if *received > 0) {
            times.lock().expect("not poisoned").push(began.elapsed());
        }
    };
    let connector = Connector { master: Arc::new(away()), pool, throttle: None };
    let context = Context { connector: &connector, observer: &observer };
    let order = driver::Order {
        what: What::Title(Title::parse(TITLE).expect("valid")),
        purpose: Purpose::Play,
        range: Range::default(),
        zone: String::new(),
        timeout: Duration::from_secs(60),
        sources: Some(1),
        brokered: false,
    };
    let mut bytes = Vec::new();
    let result = driver::fetch(context, &order, &mut PipeSink::new(&mut bytes), Some(Ok(answer))).await;
    assert!(result.is_ok() && bytes == data, "seed {seed}: {result:?}");
    let times = times.into_inner().expect("not poisoned");
    let sent: u64 = started.iter().map(|(node, _)| node.sent.load(std::sync::atomic::Ordering::Relaxed)).sum();
    Observation {
        gap: times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        took: began.elapsed(),
        sessions: started.iter().map(|(node, _)| node.starts().len()).collect(),
        extra: sent - data.len() as u64,
    }
}

/// Plays under several seeds with 0.3 % loss, each in a runtime of its own.
fn each_seed(nodes: usize, faults: &[PathFault], check: impl Fn(&Observation) -> bool) {
    each_seed_of(3000, nodes, faults, check);
}

fn each_seed_of(loss_ppm: u32, nodes: usize, faults: &[PathFault], check: impl Fn(&Observation) -> bool) {
    for seed in 1..=12 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let observed = runtime.expect("a runtime").block_on(watch(seed, loss_ppm, nodes, faults));
        assert!(check(&observed), "seed {seed}: {observed:?}");
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn without_failures_one_node_sends_everything() {
    each_seed(2, &[], |observed| observed.sessions == [1, 0] && observed.gap < ms(500) && observed.took < ms(9000));
}

#[test]
fn a_frozen_node_is_replaced_within_a_second() {
    let freeze = [PathFault::Freeze { node: 0, from: 2000, to: 60_000 }];
    each_seed_of(0, 2, &freeze, |observed| observed.sessions == [1, 1] && observed.gap < ms(900));
    // A lost first packet to the next node delays that a little.
    each_seed(2, &freeze, |observed| observed.sessions == [1, 1] && observed.gap < ms(1500));
}

#[test]
fn a_node_that_stops_for_a_moment_keeps_the_session() {
    each_seed(2, &[PathFault::Freeze { node: 0, from: 2000, to: 2300 }], |observed| {
        observed.sessions[0] == 1 && observed.gap < ms(1500)
    });
}

#[test]
fn a_node_that_receives_nothing_is_replaced_before_a_player_stalls() {
    each_seed(2, &[PathFault::Deaf { node: 0, from: 2000, to: 60_000 }], |observed| {
        observed.sessions == [1, 1] && observed.gap < ms(3000)
    });
}

#[test]
fn two_dead_nodes_at_once_cost_one_more_dial() {
    let dead = |node| PathFault::Freeze { node, from: 2000, to: 60_000 };
    each_seed(3, &[dead(0), dead(1)], |observed| observed.sessions == [1, 0, 1] && observed.gap < ms(2500));
}

#[test]
fn a_lone_node_is_waited_for() {
    // The master is absent too: there is no other node.
    each_seed(1, &[PathFault::Freeze { node: 0, from: 2000, to: 6000 }], |observed| {
        observed.gap < ms(9000) && observed.extra < GROUPS * GROUP
    });
}

#[test]
fn a_node_that_freezes_repeatedly_is_not_used_again() {
    let freeze = |from| PathFault::Freeze { node: 0, from, to: from + 400 };
    let faults: Vec<PathFault> = (0..5).map(|at| freeze(1000 + 900 * at)).collect();
    each_seed_of(0, 2, &faults, |observed| observed.sessions[0] == 1 && observed.gap < ms(1000));
    // A lost first packet to the next node delays that a little.
    each_seed(2, &faults, |observed| observed.sessions[0] == 1 && observed.gap < ms(2000));
}
