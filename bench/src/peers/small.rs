//! Small titles, one after the other on warm connections: the cost of a request beside its bytes. Usher's request is a
//! ticket from the master and a session at the node, and both processes are counted; nginx's is a GET.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, ensure};

use super::{
    table::{Figures, Peer, Results, SELF, median},
    testbed::{SMALL, Testbed, enter, small},
    viewer,
    web::{self, Http, Web},
};
use crate::cluster::{run_all, usage::Meter};

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    if let (Some(server), Some(curl)) = (&testbed.nginx, &testbed.programs.curl) {
        let peer = Peer { name: "nginx", suffix: Http::One.suffix() };
        enter(results, "small", peer, rep, nginx(testbed, server, curl));
    }
    results.enter("small", SELF, rep, viewer::runtime()?.block_on(usher(testbed))?);
    Ok(())
}

fn nginx(testbed: &Testbed, server: &Web, curl: &Path) -> anyhow::Result<Figures> {
    let all = format!("small/[000-{:03}].mp4", testbed.sizes.smalls - 1);
    let rounds = testbed.sizes.requests / testbed.sizes.smalls + 1;
    let paths = vec![all; rounds.try_into().context("few rounds")?];
    let meter = Meter::start(&server.processes()?)?;
    let run = run_all(vec![server.curl(curl, Http::One, &paths, "/dev/null")])?;
    let used = meter.seconds()?;
    let (bytes, first) = web::said(&run.outputs.first().context("an output")?.stdout)?;
    ensure!(bytes == rounds * testbed.sizes.smalls * SMALL, "curl got {bytes} bytes");
    figures(first, used)
}

async fn usher(testbed: &Testbed) -> anyhow::Result<Figures> {
    let endpoint = viewer::endpoint()?;
    let mut tickets = viewer::tickets(&testbed.cluster.address, &testbed.cluster.ca()).await?;
    let connection = viewer::dial(&endpoint, &viewer::seat(&mut tickets, &small(0)).await?).await?;
    let meter = Meter::start(&[testbed.cluster.master.id(), testbed.cluster.node_id()])?;
    let mut first = Vec::new();
    for i in 0..testbed.sizes.requests {
        let asked = Instant::now();
        let seat = viewer::seat(&mut tickets, &small(i % testbed.sizes.smalls)).await?;
        let (bytes, came) = viewer::read(&mut viewer::open(&connection, &seat.ticket).await?).await?;
        ensure!(bytes == SMALL, "a small title of {bytes} bytes");
        first.push((came - asked).as_secs_f64());
    }
    figures(first, meter.seconds()?)
}

fn figures(first: Vec<f64>, used: f64) -> anyhow::Result<Figures> {
    let requests = first.len() as f64;
    let first = median(first).context("no request was made")?;
    Ok(vec![("first byte ms, median", first * 1e3), ("requests per CPU-s (more is better)", requests / used)])
}
