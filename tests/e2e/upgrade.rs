//! A rolling upgrade with the script that operators are given, under players: each sees a change of nodes at most.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use usher_kit::{Output, Signal, run};

use crate::{
    cluster::Cluster,
    parts::{b3, usher},
};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// The script, asked to restart nodes by the shell command `restart`.
fn script(cluster: &Cluster, restart: &str, nodes: &[&str]) -> Command {
    within(cluster, restart, "120", nodes)
}

/// The same, with so many seconds for a node to come back.
fn within(cluster: &Cluster, restart: &str, wait: &str, nodes: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rolling-upgrade.sh"));
    command.args(["--restart", restart, "--deadline", "10m", "--wait", wait, "--master", &cluster.address]);
    command.args(cluster.operator()).arg("--ca").arg(cluster.ca()).args(["--"]).args(nodes);
    command.env("USHER", usher().get_program()).current_dir(cluster.path()).stdin(Stdio::null());
    command
}

/// Three nodes, each title on two of them.
fn cluster() -> Cluster {
    let mut cluster = Cluster::empty();
    for (at, node) in NODES.iter().enumerate() {
        for (without, title) in ["a.mp4", "b.mp4", "c.mp4"].iter().enumerate() {
            if at != without {
                cluster.add_film(node, title, 4 + u32::try_from(without).expect("small"));
            }
        }
        cluster.start_node(node, &[]);
    }
    cluster.settled(6);
    cluster
}

/// A player of a title that takes what comes, by the master at this address.
fn play(address: &str, ca: &Path, title: &str) -> Output {
    run(usher().args(["play", &format!("usher://{address}/{title}"), "--player", "-", "--ca"]).arg(ca))
}

#[test]
fn every_node_is_restarted_under_players_and_no_client_fails() {
    let mut cluster = cluster();
    // The test is what restarts processes; the script asks for it through one pipe and waits at another.
    let (ask, done) = (cluster.path().join("ask"), cluster.path().join("done"));
    run(Command::new("mkfifo").args([&ask, &done])).expect(0);
    let boots = NODES.map(|node| cluster.seen(node)["boot_id"].clone());
    let films = ["a.mp4", "b.mp4", "c.mp4"].map(|title| {
        let holder = NODES.iter().find(|node| cluster.media(node).join(title).exists()).expect("two hold it");
        (title, b3(cluster.media(holder).join(title)))
    });
    let (address, ca) = (cluster.address.clone(), cluster.ca());
    let mut upgrade = script(&cluster, "echo {} > ask && read -r answer < done && test \"$answer\" = good", &[]);
    let (over, moved) = (AtomicBool::new(false), AtomicUsize::new(0));
    let said = thread::scope(|threads| {
        let upgrade = threads.spawn(|| {
            let said = run(&mut upgrade);
            over.store(true, Ordering::Relaxed);
            // Also when it failed before it had asked for all.
            fs::write(&ask, "end\n").expect("written");
            said
        });
        for (title, film) in &films {
            let (over, moved, address, ca) = (&over, &moved, &address, &ca);
            threads.spawn(move || {
                // At least once more after the last node is back.
                while !over.load(Ordering::Relaxed) {
                    let said = play(address, ca, title);
                    assert_eq!(said.code, 0, "{title}: {}", said.err);
                    // Where it came from, and nothing else: no failure, no wait.
                    assert!(said.err.lines().all(|line| line.contains(": from node-")), "{}", said.err);
                    moved.fetch_add(said.err.matches("(moved there by node-").count(), Ordering::Relaxed);
                    assert_eq!(blake3::hash(&said.raw).to_hex().as_str(), film, "{title}");
                }
            });
        }
        loop {
            let asked = fs::read_to_string(&ask).expect("asked");
            let node = asked.trim();
            if node == "end" {
                break;
            }
            cluster.node(node).signal(Signal::TERM);
            assert_eq!(cluster.node(node).wait(), 0);
            cluster.start_node(node, &[]);
            fs::write(&done, "good\n").expect("written");
        }
        upgrade.join().expect("no panic")
    });
    let said = said.expect(0);
    assert!(moved.into_inner() > 0, "somebody was on a node that was drained");
    for (node, boot) in NODES.iter().zip(boots) {
        assert!(said.err.contains(&format!("{node}: serves again")), "{}", said.err);
        let now = cluster.seen(node);
        assert_eq!(now["state"], "serving");
        assert_ne!(now["boot_id"], boot);
    }
}

#[test]
fn it_stops_where_something_fails_and_never_has_two_nodes_down() {
    let cluster = cluster();
    let state = |node: &str| cluster.seen(node)["state"].as_str().unwrap_or_default().to_owned();
    let said = run(&mut script(&cluster, "true", &["node-9"])).expect(1);
    assert!(said.err.contains("node-9") && said.err.contains("nothing was done"), "{}", said.err);
    let said = run(&mut script(&cluster, "false {}", &["node-2", "node-1"])).expect(1);
    assert!(said.err.contains("`false node-2` failed") && said.err.contains("usher undrain node-2"), "{}", said.err);
    assert_eq!(NODES.map(state), ["serving", "draining", "serving"]);
    // As long as that one is not back, no other is touched.
    let said = run(&mut script(&cluster, "true", &["node-1"])).expect(1);
    assert!(said.err.contains("node-2 (draining)"), "{}", said.err);
    assert_eq!(NODES.map(state), ["serving", "draining", "serving"]);
    // A command that restarts nothing is found out.
    run(&mut cluster.operate(&["undrain", "node-2"])).expect(0);
    let said = run(&mut within(&cluster, "true", "0", &["node-3"])).expect(1);
    assert!(said.err.contains("node-3 does not serve"), "{}", said.err);
}
