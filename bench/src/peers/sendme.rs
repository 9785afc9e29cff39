//! One large title, verified, into a file: `usher fetch` beside `sendme receive`, both sides' processor time together.
//! Both have the content's hashes before the clock starts. sendme works without a relay and without a network: it
//! listens on loopback, and its ticket names that address.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use usher_kit::Process;

use super::{
    bulk::{fetch, in_files, verified_bytes},
    table::{Figures, Peer, Results, SELF},
    testbed::{Testbed, enter},
};
use crate::cluster::{Run, run_all, start, usage::Meter};

/// How long sendme may take to hash the title and print its ticket.
const OFFER: Duration = Duration::from_secs(120);

/// Options that keep sendme on this machine.
const LOCAL: [&str; 5] = ["--relay", "disabled", "--magic-ipv4-addr", "127.0.0.1:0", "--no-progress"];

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    if let Some(program) = &testbed.programs.sendme {
        enter(results, "verified", Peer { name: "sendme", suffix: "" }, rep, sendme(testbed, program));
    }
    let output = testbed.output()?;
    let file = output.path().join("one.mp4");
    let meter = Meter::start(&[testbed.cluster.master.id(), testbed.cluster.node_id()])?;
    let run = run_all(vec![fetch(&testbed.cluster, "one.mp4", &file)?])?;
    let figures = figures(testbed, &meter, &run)?;
    let bytes = fs::metadata(&file).context("look at what was fetched")?.len();
    ensure!(
        bytes == testbed.sizes.one && verified_bytes(&run)? == bytes,
        "usher got {bytes} bytes of {}",
        testbed.sizes.one
    );
    results.enter("verified", SELF, rep, figures);
    Ok(())
}

fn figures(testbed: &Testbed, meter: &Meter, run: &Run) -> anyhow::Result<Figures> {
    let both = meter.seconds()? + run.busy;
    Ok(vec![("both sides CPU-s/GB", both / (testbed.sizes.one as f64 / 1e9)), ("wall s", run.wall)])
}

fn sendme(testbed: &Testbed, program: &Path) -> anyhow::Result<Figures> {
    let (from, to) = (testbed.output()?, testbed.output()?);
    let offer = from.path().join("offer");
    let mut send = Command::new(program);
    send.arg("send").args(LOCAL).args(["--ticket-type", "addresses"]).arg(testbed.media.join("one.mp4"));
    send.current_dir(from.path()).stdout(File::create(&offer).context("make a file")?);
    let mut sender = start(&mut send)?;
    sender.ignore_log();
    let ticket = ticket(&mut sender, &offer)?;
    let mut receive = Command::new(program);
    receive.arg("receive").args(LOCAL).arg(ticket).current_dir(to.path()).stdin(Stdio::null());
    let meter = Meter::start(&[sender.id()])?;
    let run = run_all(vec![receive])?;
    let figures = figures(testbed, &meter, &run)?;
    let bytes = in_files(to.path())?;
    ensure!(bytes == testbed.sizes.one, "sendme got {bytes} bytes of {}", testbed.sizes.one);
    Ok(figures)
}

/// Waits for the line with the receiver's command.
#[expect(clippy::disallowed_methods, reason = "another process writes a file when it is ready")]
fn ticket(sender: &mut Process, offer: &Path) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(offer).context("read what sendme says")?;
        let whole = text.lines().find_map(|line| line.strip_prefix("sendme receive ")).filter(|_| text.ends_with('\n'));
        if let Some(ticket) = whole {
            return Ok(ticket.to_owned());
        }
        ensure!(sender.is_running()?, "it ended before it offered the title");
        ensure!(began.elapsed() < OFFER, "it offered nothing within {} s", OFFER.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
