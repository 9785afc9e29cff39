//! A full node: viewers to 95 % of a node's capacity, and beside them fetches that take what they can get. Measures the
//! stalls of the viewers' players, the used share of the capacity, and whether the capacity was ever exceeded.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use quinn::{Endpoint, RecvStream};
use tokio::task::{JoinSet, LocalSet};
use tonic::transport::Channel;
use usher_proto::pb::v1::{Purpose, ResolveRequest, tickets_client::TicketsClient};

use super::{
    table::{Figures, Results, SELF},
    testbed::{RATE, Testbed},
    viewer,
};
use crate::cluster::Cluster;

/// The node's capacity, in bit/s: low enough that the machine is never the limit.
const CAPACITY: u64 = 200_000_000;

/// Media that a player buffers before it plays, counted from the first byte.
const STARTS_AFTER: Duration = Duration::from_secs(1);

/// Rate that each fetch reserves, in bit/s: together 2.5 % of the capacity.
const RESERVED: u64 = 100_000;

const FETCHES: u64 = 50;

const FILM: &str = "film.mp4";

/// The width of the windows in which the capacity must not be exceeded.
const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    let capacity = format!("{}mbit", CAPACITY / 1_000_000);
    let cluster = Cluster::with(&testbed.films(), &["--capacity", &capacity])?;
    let figures = viewer::runtime()?.block_on(LocalSet::new().run_until(watch(testbed, &cluster)))?;
    results.enter("stalls", SELF, rep, figures);
    Ok(())
}

/// A simulated player.
#[derive(Default)]
struct Player {
    bytes: Cell<u64>,
    first: Cell<Option<Instant>>,
    stalls: Cell<u64>,
    /// Start of the present stall.
    still: Cell<Option<Instant>>,
    /// Total duration of the stalls.
    lost: Cell<Duration>,
}

impl Player {
    /// Adds received bytes, after a check for a stall.
    fn take(&self, now: Instant, bytes: u64) {
        self.look(now);
        let first = self.first.get().unwrap_or(now);
        self.first.set(Some(first));
        self.bytes.set(self.bytes.get() + bytes);
        if let Some(still) = self.still.take() {
            self.lost.set(self.lost.get() + (now - still));
        }
    }

    /// Starts a stall if the buffer is empty.
    fn look(&self, now: Instant) {
        let Some(first) = self.first.get() else { return };
        let lasts = Duration::from_secs_f64(self.bytes.get() as f64 * 8.0 / RATE as f64);
        let dry = first + STARTS_AFTER + self.lost.get() + lasts;
        if dry < now && self.still.get().is_none() {
            self.stalls.set(self.stalls.get() + 1);
            self.still.set(Some(dry));
        }
    }
}

/// Bytes that all sessions received, with times.
type Receipts = Rc<RefCell<Vec<(Instant, u64)>>>;

async fn watch(testbed: &Testbed, cluster: &Cluster) -> anyhow::Result<Figures> {
    let mut tickets = viewer::tickets(&cluster.address, &cluster.ca()).await?;
    let endpoint = viewer::endpoint()?;
    let (receipts, mut sessions, mut players) = (Receipts::default(), JoinSet::new(), Vec::new());
    for _ in 0..CAPACITY * 95 / 100 / RATE {
        let (player, receipts) = (Rc::new(Player::default()), receipts.clone());
        players.push(player.clone());
        let stream = admitted(&mut tickets, &endpoint, viewer::play(FILM)).await?;
        sessions.spawn_local(receive(stream, move |now, bytes| {
            player.take(now, bytes);
            receipts.borrow_mut().push((now, bytes));
        }));
    }
    let fetch = ResolveRequest { purpose: Purpose::Fetch.into(), rate_bps: RESERVED, ..viewer::play(FILM) };
    for _ in 0..FETCHES {
        let receipts = receipts.clone();
        let stream = admitted(&mut tickets, &endpoint, fetch.clone()).await?;
        sessions.spawn_local(receive(stream, move |now, bytes| receipts.borrow_mut().push((now, bytes))));
    }
    let from = Instant::now();
    tokio::time::sleep(testbed.sizes.full_node).await;
    let to = Instant::now();
    if let Some(ended) = sessions.try_join_next() {
        ended.context("a session's task")?.context("a session ended early")?;
    }
    players.iter().for_each(|player| player.look(to));
    let received = receipts.borrow();
    let within: u64 = received.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, bytes)| bytes).sum();
    let share = |bytes: u64, time: Duration| 100.0 * bytes as f64 * 8.0 / (CAPACITY as f64 * time.as_secs_f64());
    let stalls: u64 = players.iter().map(|player| player.stalls.get()).sum();
    Ok(vec![
        ("stalls of all viewers", stalls as f64),
        ("% of capacity used (higher is better)", share(within, to - from)),
        ("% of capacity in the busiest second", share(busiest(&received), SECOND)),
    ])
}

/// The most bytes received in any second.
fn busiest(received: &[(Instant, u64)]) -> u64 {
    let (mut first, mut within, mut most) = (0, 0, 0);
    for (at, bytes) in received {
        within += bytes;
        while received[first].0 + SECOND < *at {
            within -= received[first].1;
            first += 1;
        }
        most = most.max(within);
    }
    most
}

async fn admitted(
    tickets: &mut TicketsClient<Channel>,
    endpoint: &Endpoint,
    request: ResolveRequest,
) -> anyhow::Result<RecvStream> {
    let seat = viewer::seat_for(tickets, request).await?;
    let connection = viewer::dial(endpoint, &seat).await?;
    viewer::open(&connection, &seat.ticket).await
}

/// Reads as fast as bytes arrive, and reports each piece.
async fn receive(mut stream: RecvStream, tell: impl Fn(Instant, u64)) -> anyhow::Result<()> {
    let mut all = 0;
    while let Some(chunk) = stream.read_chunk(64 * 1024, true).await.context("read a session")? {
        all += chunk.bytes.len() as u64;
        tell(Instant::now(), chunk.bytes.len() as u64);
    }
    ensure!(all > 1_000_000, "a session ended after {all} bytes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_that_runs_dry_stalls_once_until_something_comes() {
        let start = Instant::now();
        let second = |count| start + SECOND * count;
        let player = Player::default();
        player.take(start, RATE / 8);
        for at in [1, 2] {
            player.look(second(at));
        }
        assert_eq!(player.stalls.get(), 0, "a second in hand, played from the first second on");
        player.look(second(3));
        player.look(second(4));
        assert_eq!(player.stalls.get(), 1);
        player.take(second(5), RATE / 8);
        player.look(second(6) - Duration::from_millis(1));
        assert_eq!(player.stalls.get(), 1, "it plays on from where it stood");
    }

    #[test]
    fn the_busiest_second_is_found_wherever_it_lies() {
        let start = Instant::now();
        let at = |millis, bytes| (start + Duration::from_millis(millis), bytes);
        assert_eq!(busiest(&[at(0, 5), at(600, 3), at(1400, 4), at(1700, 1), at(5000, 6)]), 8);
        assert_eq!(busiest(&[]), 0);
    }
}
