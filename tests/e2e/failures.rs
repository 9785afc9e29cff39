//! Failures: masters and nodes that are missing, late, drained or killed. Everything else continues, and messages name the
//! failure.

use std::{fs, net::TcpListener, net::UdpSocket};

use usher_kit::{Process, Signal, eventually, run};

use crate::{
    cluster::Cluster,
    parts::{b3, clip, usher},
};

fn state(cluster: &Cluster, node: &str) -> Option<String> {
    let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
    let node = nodes.as_array()?.iter().find(|entry| entry["name"] == node)?;
    node["state"].as_str().map(str::to_owned)
}

/// A cluster whose nodes all hold one film of 8 MiB.
fn with_film(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::empty();
    for node in nodes {
        cluster.add_film(node, "film.mp4", 8);
        cluster.start_node(node, &[]);
    }
    cluster.settled(nodes.len());
    cluster
}

#[test]
fn a_node_waits_for_its_master() {
    let mut cluster = Cluster::empty();
    cluster.kill_master();
    cluster.add("node-1", "A.mp4", clip("A.mp4"));
    cluster.start_node("node-1", &[]);
    cluster.node("node-1").line_with("master");
    cluster.restart_master();
    cluster.settled(1);
    // A master that is restarted with nothing but its key store has its catalog back.
    cluster.restart_master();
    cluster.settled(1);
    cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
}

#[test]
fn nothing_that_plays_needs_the_master() {
    let mut cluster = with_film(&["node-1"]);
    let url = cluster.url("film.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--limit-rate", "24mbit", "--progress", "json"]);
    fetch.line_with("\"progress\"");
    cluster.kill_master();
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("film.mp4")), b3(cluster.media("node-1").join("film.mp4")));
}

#[test]
fn a_killed_node_leaves_the_choice_and_its_sessions_go_on_elsewhere() {
    let mut cluster = with_film(&["node-1", "node-2"]);
    let url = cluster.url("film.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--limit-rate", "24mbit", "--progress", "json"]);
    let line = fetch.line_with("\"progress\"");
    let serving = if line.contains("node-1") { "node-1" } else { "node-2" };
    let other = if serving == "node-1" { "node-2" } else { "node-1" };
    cluster.node(serving).signal(Signal::KILL);
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert!(fetch.seen().contains(other), "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("film.mp4")), b3(cluster.media("node-1").join("film.mp4")));

    eventually("the dead node is not serving", || {
        state(&cluster, serving).is_none_or(|state| state == "stale" || state == "gone")
    });
    cluster.node(other).signal(Signal::KILL);
    eventually("no holder is left", || {
        let said = cluster.run(&["fetch", &url, "-o", "none.mp4", "--timeout", "1s"]);
        said.code != 0
    });
}

#[test]
fn a_drained_node_takes_nothing_new_and_finishes_what_runs() {
    let mut cluster = with_film(&["node-1"]);
    let mut fetch = cluster.start(&["fetch", &cluster.url("film.mp4"), "--limit-rate", "16mbit", "--progress", "json"]);
    fetch.line_with("\"progress\"");
    cluster.node("node-1").signal(Signal::TERM);
    eventually("it drains", || state(&cluster, "node-1").as_deref() == Some("draining"));
    let said = cluster.run(&["fetch", &cluster.url("film.mp4"), "-o", "late.mp4", "--timeout", "1s"]);
    assert!(said.code != 0 && !cluster.path().join("late.mp4").exists(), "{}", said.err);
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert_eq!(cluster.node("node-1").wait(), 0);
}

#[test]
fn a_corrupted_copy_is_never_written() {
    let mut cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    cluster.node("node-1").signal(Signal::TERM);
    cluster.node("node-1").wait();
    // Bits flip on the disk; size and time are as the node's index has them.
    let path = cluster.media("node-1").join("B.mp4");
    let modified = fs::metadata(&path).and_then(|m| m.modified()).expect("a time");
    let file = fs::File::options().write(true).open(&path).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, b"not the film", 300_000).expect("written");
    file.set_modified(modified).expect("set");
    drop(file);
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    let said = cluster.run(&["fetch", &cluster.url("B.mp4"), "--timeout", "5s"]).expect(32);
    assert!(said.err.contains("node-1"), "{}", said.err);
    assert!(!cluster.path().join("B.mp4").exists());
}

#[test]
fn ports_in_use_and_wrong_settings_are_named() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("bound").to_string();
    let said = run(usher()
        .args(["master", "--listen", &address, "--certs"])
        .arg(cluster.certs())
        .arg("--state")
        .arg(cluster.path()));
    assert!(said.code != 0 && said.err.contains(&address), "{}", said.err);

    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = udp.local_addr().expect("bound").to_string();
    let mut command = cluster.node_command("node-2", &[]);
    command.args(["--listen", &address]);
    let said = run(&mut command);
    assert!(said.code != 0 && said.err.contains(&address), "{}", said.err);

    let said = run(&mut cluster.node_command("node-2", &["--capacity", "fast"])).expect(2);
    assert!(said.err.contains("gbit"), "{}", said.err);
    let said = run(&mut cluster.node_command("node-2", &["--media", "/no/such/folder"]));
    assert!(said.code != 0 && said.err.contains("/no/such/folder"), "{}", said.err);

    let config = cluster.path().join("node.toml");
    fs::write(&config, "capcity = \"1gbit\"\n").expect("written");
    let said = run(usher().args(["node", "--check-config", "--config"]).arg(&config));
    assert!(said.code != 0 && said.err.contains("capcity"), "{}", said.err);
}

#[test]
fn two_processes_with_one_name_are_rejected() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    let state = cluster.path().join("second-state").to_string_lossy().into_owned();
    let mut second = Process::start(&mut cluster.node_command("node-1", &["--state", &state]));
    second.line_with("node `node-1` is already attached by its process");
    cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
}
