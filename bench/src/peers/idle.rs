//! A thousand viewers that receive a film at its rate: the cost of one for a server that has just started. Usher's viewers are
//! connections of this process; nginx paces by `limit_rate`, and its clients are a few curl processes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    table::{Figures, Peer, Results, SELF},
    testbed::{RATE, Testbed, enter},
    viewer,
    web::{Http, Web},
};
use crate::cluster::{
    Cluster, run_all, start,
    usage::{Meter, resident},
};

/// Transfers of one curl at once; it allows 300.
const AT_ONCE: u64 = 250;

/// Viewers that come in at once: enough to be quick, few enough to be answered at once.
const JOINS_AT_ONCE: usize = 16;

const FILM: &str = "film.mp4";

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    if let (Some(program), Some(curl)) = (&testbed.programs.nginx, &testbed.programs.curl) {
        let peer = Peer { name: "nginx", suffix: Http::One.suffix() };
        enter(results, "idle", peer, rep, nginx(testbed, program, curl));
    }
    let cluster = Cluster::start(&testbed.films())?;
    results.enter("idle", SELF, rep, viewer::runtime()?.block_on(usher(testbed, &cluster))?);
    Ok(())
}

async fn usher(testbed: &Testbed, cluster: &Cluster) -> anyhow::Result<Figures> {
    let mut tickets = viewer::tickets(&cluster.address, &cluster.ca()).await?;
    let endpoint = viewer::endpoint()?;
    // Memory that the first session brings in is not counted.
    let seat = viewer::seat(&mut tickets, FILM).await?;
    let first = viewer::dial(&endpoint, &seat).await?;
    viewer::open(&first, &seat.ticket).await?.read_chunk(1, true).await.context("read a session")?;
    let server = [cluster.node_id()];
    let before = resident(&server)?;
    let mut viewers = JoinSet::new();
    let permits = Arc::new(Semaphore::new(JOINS_AT_ONCE));
    let (ready, mut seated) = mpsc::unbounded_channel();
    for _ in 0..testbed.sizes.viewers {
        let (mut tickets, endpoint) = (tickets.clone(), endpoint.clone());
        let (permits, ready) = (Arc::clone(&permits), ready.clone());
        viewers.spawn(async move {
            let permit = permits.acquire_owned().await.context("a permit to join")?;
            let seat = viewer::seat(&mut tickets, FILM).await?;
            let connection = viewer::dial(&endpoint, &seat).await?;
            let mut stream = viewer::open(&connection, &seat.ticket).await?;
            drop(permit);
            ready.send(()).context("tell that a viewer is seated")?;
            viewer::sip(&mut stream, RATE).await
        });
    }
    for _ in 0..testbed.sizes.viewers {
        tokio::select! {
            one = seated.recv() => one.context("a viewer is seated")?,
            Some(left) = viewers.join_next() => left.context("a viewer's task")?.context("a viewer left early")?,
        }
    }
    tokio::time::sleep(testbed.sizes.settle).await;
    let meter = Meter::start(&server)?;
    tokio::time::sleep(testbed.sizes.window).await;
    let figures = figures(testbed, &meter, before, &server)?;
    ensure!(viewers.try_join_next().is_none(), "a viewer left before the end");
    Ok(figures)
}

fn figures(testbed: &Testbed, meter: &Meter, before: u64, server: &[u32]) -> anyhow::Result<Figures> {
    let (used, minutes) = (meter.seconds()?, meter.elapsed().as_secs_f64() / 60.0);
    let (viewers, memory) = (testbed.sizes.viewers as f64, resident(server)?.saturating_sub(before));
    Ok(vec![
        ("memory kB per session", memory as f64 / 1e3 / viewers),
        ("node CPU-s per session-minute", used / viewers / minutes),
    ])
}

fn nginx(testbed: &Testbed, program: &Path, curl: &Path) -> anyhow::Result<Figures> {
    let (films, dir) = (testbed.films(), testbed.state()?);
    let server = Web::nginx(program, dir.path(), &testbed.site(&films), RATE / 8)?;
    // One that ends at once, for what the first connection brings into memory.
    run_all(vec![{
        let mut first = Command::new(curl);
        first.args(["--silent", "--show-error", "--head", "--cacert"]).arg(&server.cert).arg(server.url(FILM));
        first
    }])?;
    let processes = server.processes()?;
    let before = resident(&processes)?;
    let mut clients = Vec::new();
    let mut left = testbed.sizes.viewers;
    while left > 0 {
        let some = left.min(AT_ONCE);
        left -= some;
        let mut client = server.curl(curl, Http::One, &[format!("{FILM}?[1-{some}]")], "/dev/null");
        client.args(["--parallel", "--parallel-immediate", "--parallel-max"]).arg(some.to_string());
        let mut client = start(client.stdout(Stdio::null()))?;
        client.ignore_log();
        clients.push(client);
    }
    wait(testbed.sizes.settle);
    let open: usize = processes.iter().map(|id| open_files(*id)).sum::<anyhow::Result<usize>>()?;
    ensure!(open as u64 >= testbed.sizes.viewers, "nginx has {open} files open for {} clients", testbed.sizes.viewers);
    let meter = Meter::start(&processes)?;
    wait(testbed.sizes.window);
    let figures = figures(testbed, &meter, before, &processes)?;
    for client in &mut clients {
        ensure!(client.is_running()?, "a curl left before the end");
    }
    Ok(figures)
}

fn open_files(process: u32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd")).context("list open files in /proc")?.count())
}

#[expect(clippy::disallowed_methods, reason = "other processes are watched for this long")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
