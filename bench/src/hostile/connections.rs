//! Connections that are opened and then do nothing: the master's usual number of them, from one address.

use anyhow::Context as _;
use usher_hostile::{Attack, Flood, Source, honest};
use usher_kit::poll;

use super::row::{ClientFigures, HostileRow, TITLE, cluster};

/// As many as the master's whole limit.
const CONNECTIONS: usize = 4096;

const GOAL: &str = ">= 99 %, p99 < 1 s";

pub(crate) const ROWS: [HostileRow; 4] = [
    HostileRow { name: "4096 silent TCP connections", goal: GOAL, run: |clients| run(clients, Attack::SilentTcp) },
    HostileRow { name: "4096 silent TLS connections", goal: GOAL, run: |clients| run(clients, Attack::SilentTls) },
    HostileRow { name: "4096 connections with pings only", goal: GOAL, run: |clients| run(clients, Attack::Pings) },
    HostileRow { name: "4096 unfinished requests", goal: GOAL, run: |clients| run(clients, Attack::HalfRequests) },
];

fn run(clients: usize, attack: Attack) -> anyhow::Result<ClientFigures> {
    let cluster = cluster(&[])?;
    let honest = Source::new(&cluster, [127, 0, 0, 1])?;
    let quiet = honest::resolve(&honest, TITLE, clients, 4)?;
    let flood = Flood::start(&Source::new(&cluster, [127, 0, 0, 2])?, attack, CONNECTIONS)?;
    poll("the flood has all places", || Ok(flood.ended() > 0 && flood.open() >= CONNECTIONS / 16))
        .context("fill the master")?;
    let attacked = honest::resolve(&honest, TITLE, clients, 4)?;
    Ok(ClientFigures::of_calls(&quiet, &attacked))
}
