//! QUIC handshakes with a node that one address begins and never finishes.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use tokio::{runtime::Runtime, time};
use usher_hostile::{
    Client, HalfOpen,
    client::{self, USUAL_WINDOW},
    honest::Outcome,
};
use usher_proto::model::SeatAddress;

use super::row::{ClientFigures, HostileRow, TITLE, cluster};

/// Handshakes that are begun before honest clients are counted; more follow meanwhile.
const HANDSHAKES: usize = 1100;

/// Time after which a viewer has given up.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const ROW: HostileRow = HostileRow { name: "1,100 half-open handshakes", goal: "nobody notices", run };

fn run(clients: usize) -> anyhow::Result<ClientFigures> {
    let cluster = cluster(&[])?;
    let runtime = Runtime::new().context("start a runtime")?;
    let (honest, seat) = runtime.block_on(async {
        let mut honest = Client::new(Ipv4Addr::LOCALHOST, &cluster.address, &cluster.ca(), USUAL_WINDOW).await?;
        let seat = honest.resolve(client::play(TITLE)).await?;
        anyhow::Ok((honest, seat))
    })?;
    let quiet = runtime.block_on(dial(&honest, &seat, clients));
    let mut attack = HalfOpen::new(Ipv4Addr::new(127, 0, 0, 2), client::address(&seat)?, seat.pins.clone())?;
    for _ in 0..HANDSHAKES {
        attack.begin()?;
    }
    let stop = AtomicBool::new(false);
    let attacked = thread::scope(|scope| {
        let attacking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                attack.begin()?;
            }
            anyhow::Ok(())
        });
        let attacked = runtime.block_on(dial(&honest, &seat, clients));
        stop.store(true, Ordering::Relaxed);
        attacking.join().map_err(|_| anyhow!("the attack panicked"))??;
        anyhow::Ok(attacked)
    })?;
    Ok(ClientFigures::of_calls(&quiet, &attacked))
}

/// Dials the node `count` times, one after the other.
async fn dial(honest: &Client, seat: &SeatAddress, count: usize) -> Outcome {
    let mut outcome = Outcome { asked: count, ..Outcome::default() };
    for _ in 0..count {
        let start = Instant::now();
        match time::timeout(PATIENCE, honest.dial_anew(seat)).await {
            Ok(Ok(connection)) => {
                outcome.times.push(start.elapsed());
                connection.close(0_u32.into(), b"");
            }
            Ok(Err(error)) => outcome.errors.push(format!("{error:#}")),
            Err(_) => outcome.errors.push("no answer in time".to_owned()),
        }
    }
    outcome.times.sort();
    outcome
}
