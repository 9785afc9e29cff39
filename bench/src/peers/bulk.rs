//! Many bytes: one large title, many on one connection, many connections. The same files from every server; each client
//! reports, or proves by its files, that it received all of them.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};

use super::{
    table::{Figures, Peer, Results, SELF},
    testbed::{Testbed, enter, middle},
    web::{self, Http, Web},
};
use crate::cluster::{Cluster, FAST, Run, run_all, usage::Meter, usher};

/// Titles that one client fetches.
struct Client {
    /// The path, or the pattern, of each program.
    usher: String,
    curl: String,
    stock: Vec<String>,
}

struct Load {
    case: &'static str,
    clients: Vec<Client>,
    /// Bytes of all clients.
    bytes: u64,
    /// Into files, in a folder; Usher needs a folder for several titles.
    files: bool,
}

pub(crate) fn one(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    Load::one(testbed, "one", false).run(testbed, rep, results)
}

pub(crate) fn file(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    Load::one(testbed, "file", true).run(testbed, rep, results)
}

pub(crate) fn titles(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    let titles = testbed.sizes.titles;
    let curl = format!("many/[00-{:02}].mp4", titles - 1);
    let client = Client { usher: "many/*".to_owned(), curl, stock: (0..titles).map(middle).collect() };
    let bytes = titles * testbed.sizes.title;
    Load { case: "titles", clients: vec![client], bytes, files: true }.run(testbed, rep, results)
}

pub(crate) fn connections(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    Load::connections(testbed, "connections").run(testbed, rep, results)
}

/// A node that sends by one thread beside the node of all cases, which has one on each core.
pub(crate) fn threads(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    let load = Load::connections(testbed, "threads");
    let single = Cluster::with(&testbed.media, &["--capacity", FAST, "--threads", "1"])?;
    results.enter(load.case, Peer { name: "one thread", suffix: "" }, rep, load.usher(testbed, &single)?);
    results.enter(load.case, SELF, rep, load.usher(testbed, &testbed.cluster)?);
    Ok(())
}

impl Load {
    fn one(testbed: &Testbed, case: &'static str, files: bool) -> Self {
        let path = "one.mp4".to_owned();
        let client = Client { usher: path.clone(), curl: path.clone(), stock: vec![path] };
        Self { case, clients: vec![client], bytes: testbed.sizes.one, files }
    }

    fn connections(testbed: &Testbed, case: &'static str) -> Self {
        let client = |i| Client { usher: middle(i), curl: middle(i), stock: vec![middle(i)] };
        let clients = (0..testbed.sizes.titles).map(client).collect();
        Self { case, clients, bytes: testbed.sizes.titles * testbed.sizes.title, files: false }
    }

    fn run(&self, testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
        for server in [&testbed.nginx, &testbed.caddy].into_iter().flatten() {
            for http in [Http::One, Http::Two] {
                let peer = Peer { name: server.name, suffix: http.suffix() };
                enter(results, self.case, peer, rep, self.web(testbed, server, http));
            }
        }
        enter(results, self.case, Peer { name: "stock quinn", suffix: "" }, rep, self.stock(testbed));
        results.enter(self.case, SELF, rep, self.usher(testbed, &testbed.cluster)?);
        Ok(())
    }

    fn web(&self, testbed: &Testbed, server: &Web, http: Http) -> anyhow::Result<Figures> {
        let output = testbed.output()?;
        let commands = self.clients.iter().map(|client| self.curl(testbed, server, http, client, output.path()));
        let (figures, run) = self.measure(&server.processes()?, commands.collect::<anyhow::Result<_>>()?)?;
        let mut bytes = 0;
        for output in &run.outputs {
            bytes += web::said(&output.stdout)?.0;
        }
        ensure!(bytes == self.bytes, "curl got {bytes} bytes of {}", self.bytes);
        Ok(figures)
    }

    fn stock(&self, testbed: &Testbed) -> anyhow::Result<Figures> {
        let commands = self.clients.iter().map(|client| testbed.stock.client(&client.stock));
        let (figures, run) = self.measure(&[testbed.stock.process.id()], commands.collect::<anyhow::Result<_>>()?)?;
        let said = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
        let bytes: u64 = run.outputs.iter().map(said).sum::<Result<_, _>>().context("read what the client got")?;
        ensure!(bytes == self.bytes, "the client got {bytes} bytes of {}", self.bytes);
        Ok(figures)
    }

    fn usher(&self, testbed: &Testbed, cluster: &Cluster) -> anyhow::Result<Figures> {
        let output = testbed.output()?;
        let place = if self.files { output.path() } else { Path::new("/dev/null") };
        let commands = self.clients.iter().map(|client| fetch(cluster, &client.usher, place));
        let (figures, run) = self.measure(&[cluster.node_id()], commands.collect::<anyhow::Result<_>>()?)?;
        let bytes = if self.files { in_files(place)? } else { verified_bytes(&run)? };
        ensure!(bytes == self.bytes, "usher got {bytes} bytes of {}", self.bytes);
        Ok(figures)
    }

    fn curl(
        &self,
        testbed: &Testbed,
        server: &Web,
        http: Http,
        client: &Client,
        output: &Path,
    ) -> anyhow::Result<Command> {
        let program = testbed.programs.curl.as_deref().context("curl is here when a web server is")?;
        let place = if self.files { format!("{}/#1.mp4", output.display()) } else { "/dev/null".to_owned() };
        let mut curl = server.curl(program, http, std::slice::from_ref(&client.curl), &place);
        if self.files && http == Http::Two {
            // On one connection: curl waits to see that the server speaks HTTP/2.
            curl.args(["--parallel", "--parallel-max", "100"]);
        }
        Ok(curl)
    }

    fn measure(&self, servers: &[u32], clients: Vec<Command>) -> anyhow::Result<(Figures, Run)> {
        let meter = Meter::start(servers)?;
        let run = run_all(clients)?;
        let gigabytes = self.bytes as f64 / 1e9;
        let figures = vec![
            ("node CPU-s/GB", meter.seconds()? / gigabytes),
            ("client CPU-s/GB", run.busy / gigabytes),
            ("wall s", run.wall),
        ];
        Ok((figures, run))
    }
}

/// `usher fetch`, which reports its progress on standard error.
pub(crate) fn fetch(cluster: &Cluster, path: &str, output: &Path) -> anyhow::Result<Command> {
    let mut fetch = Command::new(usher()?);
    fetch.arg("fetch").arg(format!("usher://{}/{path}", cluster.address)).arg("--output").arg(output);
    fetch.args(["--progress", "json", "--parallel", "64"]).env("USHER_CA", cluster.ca());
    Ok(fetch)
}

/// Bytes that finished fetches verified, by their output.
pub(crate) fn verified_bytes(run: &Run) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for output in &run.outputs {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if event["event"] == "done" {
                bytes += event["bytes"].as_u64().context("a number of bytes")?;
            }
        }
    }
    Ok(bytes)
}

/// The bytes of all files in a folder.
pub(crate) fn in_files(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in folder.read_dir().with_context(|| format!("list {}", folder.display()))? {
        let (entry, kind) =
            entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind))).context("list files")?;
        bytes +=
            if kind.is_dir() { in_files(&entry.path())? } else { entry.metadata().context("look at a file")?.len() };
    }
    Ok(bytes)
}
