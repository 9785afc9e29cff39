//! The command line and the file of a node, as an operator writes them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args as _, Command, FromArgMatches as _};
use usher_certs::{Identity, Role, files};
use usher_proto::Bitrate;
use usher_transport::Congestion;

use super::*;
use crate::media::ReplicaConfig;

fn parse(words: &[&str]) -> Result<Args, String> {
    let command = Args::augment_args(Command::new("node"));
    let matches = command.try_get_matches_from([&["node"], words].concat()).map_err(|error| error.to_string())?;
    Args::from_arg_matches(&matches).map_err(|error| error.to_string())
}

/// A directory with an authority and the certificates of these nodes.
fn certs(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    files::init(dir.path(), "test", false).expect("an authority");
    for name in names {
        let identity = Identity::new(Role::Node, name).expect("a name");
        files::issue(dir.path(), &identity, &[], dir.path(), false).expect("a certificate");
    }
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn flags_override_the_file_which_overrides_the_default() {
    let dir = certs(&["north-1"]);
    let file = dir.path().join("node.toml");
    fs::write(
        &file,
        "master = ['a', 'b:9']\nmedia = ['/m']\ncapacity = '2gbit'\nzone = 'z'\nreplica-quota = '5GB'\ndrain-timeout = '7s'\nticket-grace = '1h'\ncongestion = 'bbr'\nlabels = ['a']\n\
         max-sessions = 7\nmax-session-rate = '9mbit'\ninterface = 'lo'\nrecordings = '/r'\n",
    )
    .expect("written");
    let certs = text(dir.path());
    let args = parse(&[
        "--config",
        text(&file),
        "--certs",
        certs,
        "--capacity",
        "3mbit",
        "--state",
        "/s",
        "--label",
        "gpu",
        "--label",
        "isp=north",
    ])
    .expect("good");
    let config = args.load().expect("good");
    assert_eq!((config.capacity, config.zone.as_str()), (Bitrate(3_000_000), "z"));
    assert_eq!(config.masters.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:7440", "b:9"]);
    assert_eq!((config.drain_timeout, config.stall_timeout), (Duration::from_secs(7), Duration::from_secs(300)));
    assert_eq!(config.ticket_grace, Duration::from_secs(3600));
    assert_eq!(config.congestion, Congestion::Bbr);
    assert_eq!(config.state("north-1").expect("given"), PathBuf::from("/s"));
    assert_eq!((&config.labels, config.max_sessions), (&vec!["gpu".to_owned(), "isp=north".to_owned()], 7));
    assert_eq!((config.max_session_rate, &config.interface), (Some(Bitrate(9_000_000)), &Some("lo".to_owned())));
    let replicas = ReplicaConfig { folder: PathBuf::from("/s/replicas"), quota: Some(5_000_000_000) };
    assert_eq!((config.replicas(Path::new("/s")), &config.recordings), (replicas, &Some(PathBuf::from("/r"))));
    assert_eq!(config.identity().expect("good").identity().map(|identity| identity.name), Ok("north-1".to_owned()));
    assert_eq!(config.listen, ["0.0.0.0:7441".parse().expect("an address")]);
}

#[test]
fn wrong_settings_are_named() {
    let dir = certs(&["north-1", "south-1"]);
    let certs = text(dir.path());
    for (words, part) in [
        (&["--capacity", "fast"][..], "write a number and a unit"),
        (&["--capacity", "10"], "use bit, kbit, mbit"),
        (&["--master", "https://m"], "names no master"),
        (&["--name", "North"], "a node's name is"),
        (&["--listen", "7441"], "--listen"),
        (&["--replica-quota", "10"], "is no size"),
        (&["--media-cert-lifetime", "soon"], "--media-cert-lifetime"),
    ] {
        let error = parse(words).expect_err("wrong");
        assert!(error.contains(part), "{words:?}: {error}");
    }
    let wrong = |words: &[&str]| {
        let args = parse(&[words, &["--state", "/s"]].concat()).expect("parses");
        let checked = args.load().and_then(|config| config.check(&config.identity()?));
        format!("{:#}", checked.expect_err("wrong"))
    };
    let file = |content: &str| {
        let path = dir.path().join("node.toml");
        fs::write(&path, content).expect("written");
        text(&path).to_owned()
    };
    let node = ["--certs", certs, "--name", "north-1", "--master", "m", "--media", certs];
    for (words, part) in [
        (&["--certs", certs][..], "north-1, south-1; choose with --name"),
        (&["--certs", certs, "--name", "east-1"], "node-east-1.pem is missing"),
        (&["--certs", "/nowhere"], "/nowhere"),
        (&["--cert", "a.pem", "--ca", "ca.pem"], "--cert is given without --key"),
        (&["--key", "a.key", "--certs", certs], "--key is given without --cert"),
        (&["--certs", certs, "--name", "north-1", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        (&["--certs", certs, "--name", "north-1"], "--master"),
        (&["--certs", certs, "--name", "north-1", "--master", "m"], "--media"),
        (&["--certs", certs, "--name", "north-1", "--master", "m", "--media", "/nowhere"], "media folder /nowhere"),
        (&["--config", "/nowhere.toml"], "/nowhere.toml"),
        (&[&node[..], &["--recordings", "/nowhere"]].concat(), "folder of recordings /nowhere"),
        (&[&node[..], &["--interface", "eht0"]].concat(), "correct --interface"),
        (&[&node[..], &["--label", "a b"]].concat(), "--label"),
        (&[&node[..], &["--max-sessions", "0"]].concat(), "--max-sessions"),
        (&["--config", &file("capacitty = '1gbit'")], "unknown field `capacitty`"),
    ] {
        let error = wrong(words);
        assert!(error.contains(part), "{words:?}: {error}");
    }
    let error = wrong(&["--config", &file("capacity = '10'")]);
    assert!(error.contains("no known unit") && error.contains("node.toml"), "{error}");
}

#[test]
fn certificate_files_are_merged_field_by_field() {
    let (dir, other) = (certs(&["north-1"]), certs(&["south-1"]));
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let (cert, key, ca) = (path("node-north-1.pem"), path("node-north-1.key"), path("ca.pem"));
    let file = dir.path().join("node.toml");
    fs::write(&file, format!("master = ['m']\ncert = '{cert}'\nkey = '{key}'\n")).expect("written");
    let (file, dir, other) = (text(&file), text(dir.path()), text(other.path()));
    for (words, name) in [
        (&["--certs", dir, "--ca", &ca][..], "north-1"),
        (&["--config", file, "--ca", &ca], "north-1"),
        (&["--cert", &cert, "--key", &key, "--certs", dir], "north-1"),
        (&["--config", file, "--certs", other], "south-1"),
        (&["--config", file, "--cert", &cert, "--certs", dir], "north-1"),
    ] {
        let args = parse(&[words, &["--state", "/s"]].concat()).expect("parses");
        let identity =
            args.load().and_then(|config| config.identity()).expect("good").identity().expect("a certificate");
        assert_eq!(identity.name, name, "{words:?}");
    }
}
