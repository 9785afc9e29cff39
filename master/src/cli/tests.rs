//! The command line and the file of a master, as an operator writes them.

use std::{fs, path::Path, time::Duration};

use clap::{Args as _, Command, FromArgMatches as _};
use usher_certs::{
    Identity, Role,
    files::{init, issue},
};
use usher_proto::NodeName;

use super::*;
use crate::{
    core::{
        balancer::{RankRule, ZoneLink, Zones},
        cluster::NodeLimits,
    },
    settings::{ClusterAccess, Lifetime, MetricsAt, Switch},
};

/// The settings of this command line, checked, with a good certificate.
fn config(words: &[&str]) -> anyhow::Result<Config> {
    let command = Args::augment_args(Command::new("master"));
    let matches = command.try_get_matches_from([&["master"], words].concat())?;
    let config = Args::from_arg_matches(&matches)?.load()?;
    config.check()?;
    config.identity()?;
    Ok(config)
}

fn certs(dir: &Path) {
    init(dir, "test", false).expect("an authority");
    for (role, name) in [(Role::Master, "master"), (Role::Node, "n")] {
        issue(dir, &Identity::new(role, name).expect("a name"), &[], dir, false).expect("issued");
    }
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let dir = tempfile::tempdir().expect("a directory");
    certs(dir.path());
    let file = dir.path().join("master.toml");
    let settings = "queue = 7\ncluster-access = \"admin\"\nsession-lifetime = \"90s\"";
    fs::write(&file, format!("certs = {:?}\n{settings}\n", dir.path())).expect("written");
    let config = config(&["--config", text(&file), "--state", "s", "--queue", "9"]).expect("good");
    assert_eq!((config.queue, config.cluster_access), (9, ClusterAccess::Admin));
    assert_eq!(config.listen, ([0, 0, 0, 0], 7440).into());
    assert_eq!(config.session_lifetime, Lifetime(Some(Duration::from_secs(90))));
    assert_eq!((lifetime("off"), lifetime("0")), (Ok(Lifetime(None)), Ok(Lifetime(None))));
    assert_eq!(lifetime("1h"), Ok(Lifetime(Some(Duration::from_secs(3600)))));
    assert!(["", "10", "0s", "31d", "-1m"].iter().all(|text| lifetime(text).is_err()));
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    text.parse()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn the_balancing_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    certs(dir.path());
    let file = dir.path().join("master.toml");
    let settings = r#"
        moves = "off"
        rebalance = "off"
        masters = 3
        rule = "headroom"
        min-copies = 2
        repair-after = "90s"
        metrics = "off"
        catalog-memory = "1GiB"
        dial-back = "off"
        [[node]]
        name = "edge-1"
        prefixes = ["films/", "shows/"]
        max-rate = "2gbit"
        [[node]]
        name = "edge-2"
        [[link]]
        from = "a"
        to = "b"
        price = 0.05
        [[copies]]
        prefix = "films/"
        min = 3
        max = 5
    "#;
    fs::write(&file, settings).expect("written");
    let args = ["--certs", text(dir.path()), "--state", "s"];
    let in_file = config(&[&args[..], &["--config", text(&file)]].concat()).expect("good");
    let balancing = in_file.balancing().expect("good");
    assert_eq!((balancing.moves, balancing.masters, balancing.replication), (false, 3, true));
    assert!(!balancing.rebalance && Config::default().rebalance == Switch::On);
    let fifty = Zones::new(vec![ZoneLink { from: "a".into(), to: "b".into(), price: 50 }]);
    assert_eq!((balancing.rule, balancing.zones.price("a", "b")), (RankRule::Headroom, fifty.price("a", "b")));
    let bounds = |title| balancing.copies.of(title);
    assert_eq!((bounds("x").min, bounds("films/x").min, bounds("films/x").max), (2, 3, Some(5)));
    assert_eq!(balancing.grace.as_secs(), 90);
    let limits = |name: &str| balancing.limits.get(&NodeName::parse(name).expect("a name")).cloned();
    let first = NodeLimits { prefixes: vec!["films/".into(), "shows/".into()], max_rate: Some(2_000_000_000) };
    assert_eq!([limits("edge-1"), limits("edge-2")], [Some(first), Some(NodeLimits::default())]);
    assert_eq!((balancing.dial_back, balancing.catalog_memory), (false, 1 << 30));
    assert_eq!(in_file.metrics, MetricsAt::Off);
    let usual = config(&args).expect("good");
    assert_eq!(usual.repair_after.as_secs(), 300);
    assert_eq!(usual.session_lifetime, Lifetime(Some(Duration::from_secs(600))));
    assert_eq!(usual.metrics, MetricsAt::Usual(([127, 0, 0, 1], 7441).into()));
    assert_eq!("127.0.0.1:0".parse(), Ok(MetricsAt::Given(([127, 0, 0, 1], 0).into())));
    assert!("7441".parse::<MetricsAt>().is_err());
}

#[test]
fn wrong_settings_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    certs(dir.path());
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let good = ["--certs", text(dir.path()), "--state", "s"];
    assert!(config(&good).is_ok());
    let (cert, other_key) = (path("master.pem"), path("node-n.key"));
    for (words, part) in [
        (&["--config", &path("absent.toml")][..], "absent.toml"),
        (&["--certs", &path("none")], "none"),
        (&["--cert", &path("node-n.pem"), "--key", &other_key], "node n"),
        (&["--cert", &cert, "--key", &other_key], "node-n.key"),
        (&["--queue", &usize::MAX.to_string()], "queue"),
        (&["--max-connections", "0"], "--max-connections"),
    ] {
        let base = if words[0] == "--certs" { &good[2..] } else { &good[..] };
        let error = format!("{:#}", config(&[base, words].concat()).expect_err(part));
        assert!(error.contains(part), "{error}");
    }
    let file = dir.path().join("master.toml");
    let twice = "[[copies]]\nprefix = \"a/\"\nmin = 3\n".repeat(2);
    for (content, part) in [
        ("qeue = 7", "qeue"),
        ("[[link]]\nfrom = \"a\"\nto = \"b\"\nprice = 1.5\n", "1.5"),
        ("[[link]]\nfrom = \"a\"\nto = \"a\"\nprice = 0.5\n", "itself"),
        ("[[link]]\nfrom = \"\"\nto = \"a\"\nprice = 0.5\n", "zone"),
        ("[[copies]]\nprefix = \"a/\"\nmin = 3\nmax = 2\n", "at least 3"),
        (&twice, "twice"),
        ("[[copies]]\nprefix = \"a/\"\n", "min"),
        ("[[node]]\nname = \"A B\"\n", "A B"),
        ("[[node]]\nname = \"n\"\n[[node]]\nname = \"n\"\n", "twice"),
        ("[[node]]\nname = \"n\"\nprefixes = [\"\"]\n", "prefix"),
        ("[[node]]\nname = \"n\"\nmax-rate = \"0\"\n", "max-rate"),
        ("catalog-memory = \"1MiB\"", "16MiB"),
        ("masters = 0", "masters"),
        ("metrics = \"on\"", "metrics"),
        ("min-copies = 100000", "copies"),
        ("repair-after = \"soon\"", "repair-after"),
        ("session-lifetime = \"10\"", "session-lifetime"),
        ("repair-after = \"1y\"", "30d"),
    ] {
        fs::write(&file, content).expect("written");
        let words = [&good[..], &["--config", text(&file)]].concat();
        let error = format!("{:#}", config(&words).expect_err(part));
        assert!(error.contains(part), "{error}");
    }
}
