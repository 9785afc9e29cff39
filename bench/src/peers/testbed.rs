//! The parts that all cases share: titles on disk, Usher's cluster, and the peers that this machine has, all running at once and
//! idle outside their turns.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tempfile::TempDir;
use usher_chaos::test_title;

use super::{
    stock::Stock,
    table::{Figures, Peer, Results},
    web::{Site, Web},
};
use crate::cluster::Cluster;

/// Sizes of the cases, in bytes.
pub(crate) struct Sizes {
    /// The one large title.
    pub(crate) one: u64,
    /// Number of titles of middle size, at most 100, and their size.
    pub(crate) titles: u64,
    pub(crate) title: u64,
    /// Number of titles of 64 KiB.
    pub(crate) smalls: u64,
    /// Requests for small ones.
    pub(crate) requests: u64,
    pub(crate) handshakes: u64,
    /// Calls for tickets.
    pub(crate) calls: u64,
    /// Viewers at once, how long they settle and how long they are watched.
    pub(crate) viewers: u64,
    pub(crate) settle: Duration,
    pub(crate) window: Duration,
    /// How long a full node is watched.
    pub(crate) full_node: Duration,
}

/// The size of a small title, in bytes: one group.
pub(crate) const SMALL: u64 = 64 * 1024;

/// The rate of a film, in bits per second.
pub(crate) const RATE: u64 = 2_000_000;

/// The rate of a small title, in bits per second: so low that unused tickets never fill the node.
const LOW_RATE: u64 = 20_000;

/// The film of the viewers, in bytes: at its rate it lasts 268 s, longer than they come in and watch.
const FILM: u64 = 64 * 1024 * 1024;

/// Free space that makes memory the place of what is fetched, in bytes: no disk is measured then.
const ROOMY: u64 = 6 << 30;

pub(crate) struct Testbed {
    pub(crate) sizes: Sizes,
    pub(crate) cluster: Cluster,
    pub(crate) stock: Stock,
    pub(crate) nginx: Option<Web>,
    pub(crate) caddy: Option<Web>,
    pub(crate) programs: Programs,
    /// A certificate for loopback, which all peers show, and its key.
    cert: PathBuf,
    key: PathBuf,
    /// Titles that all servers have.
    pub(crate) media: PathBuf,
    /// The folder of fetched files.
    scratch: TempDir,
    dir: TempDir,
}

/// Programs that are installed here.
pub(crate) struct Programs {
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) caddy: Option<PathBuf>,
    pub(crate) curl: Option<PathBuf>,
    pub(crate) sendme: Option<PathBuf>,
}

impl Programs {
    fn find(sendme: Option<PathBuf>) -> Self {
        let curl = find("curl", "apt-get install curl");
        // Without curl nothing would fetch from them.
        let server = |name, how| find(name, how).filter(|_| curl.is_some());
        Self {
            nginx: server("nginx", "apt-get install nginx"),
            caddy: server("caddy", "apt-get install caddy"),
            sendme: sendme.or_else(|| find("sendme", "cargo install sendme --locked")),
            curl,
        }
    }
}

/// A program on PATH or in the folders of system servers; a missing one is reported on standard error.
pub(crate) fn find(name: &str, how: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("MISSING PEER: {name} is not installed (`{how}`); going on without it");
    }
    found
}

impl Testbed {
    /// Writes the titles and starts all servers.
    pub(crate) fn set(sizes: Sizes, sendme: Option<PathBuf>) -> anyhow::Result<Self> {
        let programs = Programs::find(sendme);
        let dir = tempfile::tempdir().context("make a temporary folder")?;
        let media = dir.path().join("media");
        write_titles(&sizes, &media)?;
        test_title::write(&dir.path().join("films/film.mp4"), FILM, RATE, 0)?;
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        fs::write(&cert, issued.cert.pem()).context("write a certificate")?;
        fs::write(&key, issued.signing_key.serialize_pem()).context("write a key")?;
        let site = Site { root: &media, cert: &cert, key: &key };
        let start = |program: &Option<PathBuf>, start: &dyn Fn(&Path) -> anyhow::Result<Web>| {
            let web = program.as_deref().map(start).transpose();
            web.unwrap_or_else(|error| {
                eprintln!("MISSING PEER: {error:#}; going on without it");
                None
            })
        };
        let nginx = start(&programs.nginx, &|program| Web::nginx(program, &dir.path().join("nginx"), &site, 0));
        let caddy = start(&programs.caddy, &|program| Web::caddy(program, &dir.path().join("caddy"), &site));
        let stock = Stock::start(&media, &cert, &key)?;
        let cluster = Cluster::start(&media)?;
        let scratch = scratch().context("make a folder for what is fetched")?;
        Ok(Self { sizes, cluster, stock, nginx, caddy, programs, cert, key, media, scratch, dir })
    }

    /// These files, under a certificate for loopback.
    pub(crate) fn site<'a>(&'a self, root: &'a Path) -> Site<'a> {
        Site { root, cert: &self.cert, key: &self.key }
    }

    /// The folder of the viewers' film.
    pub(crate) fn films(&self) -> PathBuf {
        self.dir.path().join("films")
    }

    /// The files of the master's certificate.
    pub(crate) fn master_identity(&self) -> (PathBuf, PathBuf) {
        let certs = self.cluster.certs();
        (certs.join("master.pem"), certs.join("master.key"))
    }

    /// An empty folder for state, removed on drop.
    pub(crate) fn state(&self) -> anyhow::Result<TempDir> {
        TempDir::new_in(self.dir.path()).context("make a folder")
    }

    /// An empty folder for fetched files, removed on drop.
    pub(crate) fn output(&self) -> anyhow::Result<TempDir> {
        TempDir::new_in(self.scratch.path()).context("make a folder")
    }
}

/// Adds a peer's figures. A peer that fails is reported and left out.
pub(crate) fn enter(
    results: &mut Results,
    case: &'static str,
    peer: Peer,
    rep: usize,
    outcome: anyhow::Result<Figures>,
) {
    match outcome {
        Ok(figures) => results.enter(case, peer, rep, figures),
        Err(error) => eprintln!("FAILED PEER: {} {}: {error:#}; going on without it", peer.name, peer.suffix),
    }
}

/// In memory if there is enough, otherwise in the folder of temporary files.
fn scratch() -> std::io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= ROOMY);
    if roomy { TempDir::new_in(memory) } else { TempDir::new() }
}

fn write_titles(sizes: &Sizes, media: &Path) -> anyhow::Result<()> {
    test_title::write(&media.join("one.mp4"), sizes.one, RATE, 1)?;
    for i in 0..sizes.titles {
        test_title::write(&media.join(middle(i)), sizes.title, RATE, 1000 + i)?;
    }
    for i in 0..sizes.smalls {
        test_title::write(&media.join(small(i)), SMALL, LOW_RATE, 2000 + i)?;
    }
    Ok(())
}

/// The path of a title of middle size.
pub(crate) fn middle(i: u64) -> String {
    format!("many/{i:02}.mp4")
}

/// The path of a small title.
pub(crate) fn small(i: u64) -> String {
    format!("small/{i:03}.mp4")
}
