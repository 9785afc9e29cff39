//! The machines over a network in memory, on a clock that passes only while everybody waits: what a viewer sees of nodes
//! that freeze, of ways that lose one direction, and how long, whatever this machine does meanwhile.

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

/// Groups of the title. Its nodes send one each 100 ms, 5.2 Mbit/s, a quarter more than its rate.
const GROUPS: u64 = 60;

/// The title's rate.
const RATE: Bitrate = Bitrate(4_200_000);

/// What happens to a way, and when, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The node stands still until then.
    Freeze { node: usize, from: u64, to: u64 },
    /// Nothing comes to the node.
    Deaf { node: usize, from: u64, to: u64 },
}

/// What a viewer saw.
#[derive(Debug)]
struct Seen {
    /// The longest time without anything new, once something had come.
    gap: Duration,
    took: Duration,
    /// Sessions at each node.
    sessions: Vec<usize>,
    /// Bytes that the nodes sent beyond the title itself, as far as their streams took them.
    extra: u64,
}

fn listening(socket: Arc<Socket>, server: quinn::ServerConfig) -> quinn::Endpoint {
    let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).expect("an endpoint")
}

/// A master that nobody answers for: who needs it has failed, or waits.
fn away() -> Asked {
    let pem = Cluster::create("test", SystemTime::now()).expect("makes").ca_pem().to_owned();
    let authority = crate::Authority { pem, source: "/the/ca.pem".into() };
    let address = Address { host: "127.0.0.1".into(), port: 1 };
    Asked::new(address, authority, None, 1).expect("a master")
}

async fn watch(seed: u64, loss_ppm: u32, nodes: usize, faults: &[Fault]) -> Seen {
    let network = Network::default();
    let link = |seed| Settings { delay: Duration::from_millis(20), loss_ppm, seed, ..Settings::default() };
    let data = media(GROUPS, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let started: Vec<(Node, SocketAddr)> = (0..nodes)
        .map(|number| {
            let socket = network.host(link(seed * 10 + number as u64));
            let address = socket.address();
            let listen = |config| listening(socket, config);
            (Node::listening(&format!("n{number}"), &titles, Manner::Slow(100), listen), address)
        })
        .collect();
    let near = network.host(link(seed * 10 + 9));
    let endpoint = usher_transport::Endpoint::over(&Handle::current(), near, None).expect("an endpoint");
    let pool = Arc::new(Pool::over(ConnectionSettings::default(), endpoint));
    let seats =
        started.iter().map(|(node, _)| Seat::from(node).to_pb(TITLE).try_into().expect("a good seat")).collect();
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
        let (Fault::Freeze { node, from, to } | Fault::Deaf { node, from, to }) = *fault;
        let (network, address, freeze) = (network.clone(), started[node].1, matches!(fault, Fault::Freeze { .. }));
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
    };
    let mut bytes = Vec::new();
    let result = driver::fetch(context, &order, &mut PipeSink::new(&mut bytes), Some(Ok(answer))).await;
    assert!(result.is_ok() && bytes == data, "seed {seed}: {result:?}");
    let times = times.into_inner().expect("not poisoned");
    let sent: u64 = started.iter().map(|(node, _)| node.sent.load(std::sync::atomic::Ordering::Relaxed)).sum();
    Seen {
        gap: times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        took: began.elapsed(),
        sessions: started.iter().map(|(node, _)| node.starts().len()).collect(),
        extra: sent - data.len() as u64,
    }
}

/// Runs it under several seeds with 0.3 % of loss, each in a runtime of its own.
fn each_seed(nodes: usize, faults: &[Fault], check: impl Fn(&Seen) -> bool) {
    each_seed_of(3000, nodes, faults, check);
}

fn each_seed_of(loss_ppm: u32, nodes: usize, faults: &[Fault], check: impl Fn(&Seen) -> bool) {
    for seed in 1..=12 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let seen = runtime.expect("a runtime").block_on(watch(seed, loss_ppm, nodes, faults));
        assert!(check(&seen), "seed {seed}: {seen:?}");
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn without_faults_one_node_sends_it_all() {
    each_seed(2, &[], |seen| seen.sessions == [1, 0] && seen.gap < ms(500) && seen.took < ms(9000));
}

#[test]
fn a_frozen_node_is_left_within_a_second() {
    let freeze = [Fault::Freeze { node: 0, from: 2000, to: 60_000 }];
    each_seed_of(0, 2, &freeze, |seen| seen.sessions == [1, 1] && seen.gap < ms(900));
    // Where the hello to the next node is lost, a little later.
    each_seed(2, &freeze, |seen| seen.sessions == [1, 1] && seen.gap < ms(1500));
}

#[test]
fn a_node_that_stops_for_a_moment_keeps_the_session() {
    each_seed(2, &[Fault::Freeze { node: 0, from: 2000, to: 2300 }], |seen| {
        seen.sessions[0] == 1 && seen.gap < ms(1500)
    });
}

#[test]
fn a_node_that_is_not_heard_by_is_left_before_a_player_runs_dry() {
    each_seed(2, &[Fault::Deaf { node: 0, from: 2000, to: 60_000 }], |seen| {
        seen.sessions == [1, 1] && seen.gap < ms(3000)
    });
}

#[test]
fn two_dead_nodes_at_once_cost_one_more_dial() {
    let dead = |node| Fault::Freeze { node, from: 2000, to: 60_000 };
    each_seed(3, &[dead(0), dead(1)], |seen| seen.sessions == [1, 0, 1] && seen.gap < ms(2500));
}

#[test]
fn a_lone_node_is_waited_for() {
    // The master is away too: there is nowhere else to go.
    each_seed(1, &[Fault::Freeze { node: 0, from: 2000, to: 6000 }], |seen| {
        seen.gap < ms(9000) && seen.extra < GROUPS * GROUP
    });
}

#[test]
fn a_node_that_freezes_again_and_again_is_left_for_good() {
    let freeze = |from| Fault::Freeze { node: 0, from, to: from + 400 };
    let faults: Vec<Fault> = (0..5).map(|at| freeze(1000 + 900 * at)).collect();
    each_seed_of(0, 2, &faults, |seen| seen.sessions[0] == 1 && seen.gap < ms(1000));
    // Where a hello to the next node is lost within a freeze, a little later.
    each_seed(2, &faults, |seen| seen.sessions[0] == 1 && seen.gap < ms(2000));
}
