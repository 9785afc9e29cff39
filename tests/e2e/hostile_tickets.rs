//! Clients that ask for tickets without redeeming them: the others are served nevertheless.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use usher_kit::{Process, eventually};

use crate::{
    cluster::Cluster,
    parts::clip,
    tickets::{Tickets, play},
};

/// A client that asks in a loop, several requests at once, and redeems nothing; until it is dropped.
struct UnredeemedRequests {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl UnredeemedRequests {
    fn start(cluster: &Cluster, host: u8, rate: u64) -> Self {
        let (stop, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (is_over, count) = (Arc::clone(&stop), Arc::clone(&refused));
        let tickets = Tickets::at(cluster, host);
        let mut request = play("small.mp4");
        request.rate_bps = rate;
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let answers = tickets.resolve_at_once(&request, 8);
                count.fetch_add(answers.iter().filter(|answer| answer.is_err()).count(), Ordering::Relaxed);
            }
        });
        Self { stop, refused, thread: Some(thread) }
    }
}

impl Drop for UnredeemedRequests {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ended = thread.join();
        }
    }
}

/// Sessions that run on all nodes, as the master knows them.
fn running(cluster: &Cluster) -> u64 {
    let nodes = cluster.roster().unwrap_or_default();
    nodes.iter().filter_map(|node| node["sessions"].as_u64()).sum()
}

/// Fills a cluster with the fetches of an honest client, which start while a hoarder has all of it at `rate` bit/s each.
/// Four fetches of 8.7 Mbit/s fit on a node, also on a slow machine, where it delivers a little less than its capacity.
fn fill_beside_a_hoarder(rate: u64) {
    const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
    let mut cluster = Cluster::with_master(&["--replication", "off"]);
    for node in NODES {
        cluster.add_film(node, "film.mp4", 20);
        cluster.add(node, "small.mp4", clip("B.mp4"));
        cluster.start_node(node, &["--capacity", "40mbit"]);
    }
    cluster.settled(2 * NODES.len());
    let hoarder = UnredeemedRequests::start(&cluster, 2, rate);
    eventually("the hoarder has all that it can get", || hoarder.refused.load(Ordering::Relaxed) > 0);

    let url = cluster.url("film.mp4");
    let fits = 4 * NODES.len();
    let fetch = |number| {
        let file = format!("{number}.mp4");
        cluster.start(&["fetch", &url, "-o", &file, "--limit-rate", "3mbit"])
    };
    let _fetches: Vec<Process> = (0..fits).map(fetch).collect();
    // Nodes hold a part of their capacity back in their first minute, and more on a busy
    // machine; that 95 % of what fits is served is a test of the core.
    let served = (fits * 2 / 3) as u64;
    eventually("what fits is served", || running(&cluster) >= served);
    let refused = hoarder.refused.load(Ordering::Relaxed);
    eventually("the hoarder keeps asking", || hoarder.refused.load(Ordering::Relaxed) > refused + 100);
    assert!(running(&cluster) >= served);
}

#[test]
fn a_client_that_redeems_nothing_keeps_no_other_out() {
    fill_beside_a_hoarder(0);
}

#[test]
fn a_client_that_requests_high_rates_keeps_no_other_out() {
    fill_beside_a_hoarder(24_000_000);
}
