//! Standing `Watch` streams from one address, more than there are places for.

use anyhow::Context as _;
use usher_hostile::{Attack, Flood, Source, honest};
use usher_kit::poll;

use super::row::{ClientFigures, HostileRow, cluster};

const WATCHERS: usize = 300;

pub(crate) const ROW: HostileRow = HostileRow { name: "300 watchers", goal: "nobody notices", run };

fn run(clients: usize) -> anyhow::Result<ClientFigures> {
    let cluster = cluster(&[])?;
    let honest = Source::new(&cluster, [127, 0, 0, 1])?;
    let quiet = honest::watch(&honest, clients, 4)?;
    let flood = Flood::start(&Source::new(&cluster, [127, 0, 0, 2])?, Attack::Watches, WATCHERS)?;
    poll("the flood has its share", || Ok(flood.ended() > 0 && flood.open() >= WATCHERS / 3))
        .context("fill the master")?;
    let attacked = honest::watch(&honest, clients, 4)?;
    Ok(ClientFigures::of_calls(&quiet, &attacked))
}
