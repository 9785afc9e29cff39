//! `usher fetch`, `ls`, `locate`, `nodes`: files arrive whole and verified, or what is there can be resumed.

use std::{fs, process::Command};

use usher_kit::{Process, Signal, eventually, run};
use usher_media::samples::padded;

use crate::{
    cluster::Cluster,
    parts::{b3, clip, usher},
};

#[test]
fn fetches_one_many_and_globs() {
    let cluster = Cluster::figure_4();
    for name in ["A.mp4", "B.mp4", "C.mp4"] {
        cluster.add("node-1", &format!("films/{name}"), clip(name));
    }
    cluster.add("node-1", "films/sub/D.mp4", clip("D.mp4"));
    cluster.settled(13 + 4);
    let at = |path: &str| cluster.path().join(path);

    let said = cluster.run(&["fetch", &cluster.url("F.webm")]).expect(0);
    assert_eq!(b3(at("F.webm")), b3(clip("F.webm")));
    assert!(said.out.is_empty(), "stdout carries data only");
    assert!(said.err.contains("node-2") && said.err.contains("verified"), "{}", said.err);

    fs::create_dir(at("many")).expect("a folder");
    cluster.run(&["fetch", &cluster.url("G.ts"), &cluster.url("J.mp4"), "-o", "many/"]).expect(0);
    assert_eq!((b3(at("many/G.ts")), b3(at("many/J.mp4"))), (b3(clip("G.ts")), b3(clip("J.mp4"))));

    fs::create_dir(at("glob")).expect("a folder");
    cluster.run(&["fetch", &cluster.url("films/*"), "-o", "glob/"]).expect(0);
    let found: Vec<_> = walk(&at("glob"));
    assert_eq!(found, ["films/A.mp4", "films/B.mp4", "films/C.mp4"], "`*` does not cross a slash");

    let said = cluster.run(&["fetch", &cluster.url("H.mp4"), "-o", "-"]).expect(0);
    assert_eq!(blake3::hash(&said.raw).to_hex().to_string(), b3(clip("H.mp4")));

    let id = b3(clip("E.mp4"));
    cluster.run(&["fetch", "--from-id", &cluster.url(&id), "-o", "by-id.mp4"]).expect(0);
    assert_eq!(b3(at("by-id.mp4")), id);

    let said = cluster.run(&["fetch", &cluster.url("B.mp4"), "--range", "65530-131100", "-o", "-"]).expect(0);
    assert_eq!(said.raw, fs::read(clip("B.mp4")).expect("a clip")[65530..=131_100]);
    assert!(walk(cluster.path()).iter().all(|path| !path.contains(".part")), "nothing is left over");
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).expect("inside").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_hundred_videos_share_one_connection() {
    // Connections are counted, and the master's dial would be one.
    let mut cluster = Cluster::with_master(&["--dial-back", "off"]);
    for i in 0..100 {
        // Different bytes for each.
        let data = padded(&fs::read(clip("A.mp4")).expect("a clip"), format!("video {i}").as_bytes());
        let draft = cluster.path().join("clip");
        fs::write(&draft, data).expect("written");
        cluster.add("node-1", &format!("v/{i:03}.mp4"), &draft);
    }
    cluster.start_node("node-1", &["--capacity", "10gbit"]);
    cluster.settled(100);
    cluster.run(&["fetch", &cluster.url("v/*"), "-o", ".", "--parallel", "100"]).expect(0);
    for i in 0..100 {
        let name = format!("v/{i:03}.mp4");
        assert_eq!(b3(cluster.path().join(&name)), b3(cluster.media("node-1").join(&name)));
    }
    cluster.node("node-1").signal(Signal::TERM);
    cluster.node("node-1").wait();
    let log = cluster.node("node-1").seen();
    assert_eq!(log.matches("connection opened").count(), 1, "{log}");
}

#[test]
fn an_interrupted_fetch_goes_on_where_it_was() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    let url = cluster.url("B.mp4");
    for signal in [Signal::INT, Signal::TERM] {
        let target = cluster.path().join("B.mp4");
        let mut fetch = Process::start(
            cluster.usher(&["fetch", &url, "--limit-rate", "1mbit", "--progress", "json"]).arg("--force"),
        );
        fetch.line_with("\"progress\"");
        eventually("some groups are verified", || fetch.seen().contains("\"bytes\":131072"));
        fetch.signal(signal);
        assert_eq!(fetch.wait(), 7, "{}", fetch.seen());
        assert!(!target.exists() && target.with_file_name("B.mp4.part").exists());

        let said = cluster.run(&["fetch", &url, "--progress", "json"]).expect(0);
        assert!(said.err.contains("resum"), "{}", said.err);
        assert_eq!(b3(&target), b3(clip("B.mp4")));
        fs::remove_file(target).expect("removed");
    }
}

#[test]
fn a_damaged_part_file_is_not_trusted() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    let url = cluster.url("B.mp4");
    let mut fetch = Process::start(&mut cluster.usher(&["fetch", &url, "--limit-rate", "1mbit", "--progress", "json"]));
    eventually("some groups are verified", || fetch.seen().contains("\"bytes\":131072"));
    fetch.signal(Signal::INT);
    assert_eq!(fetch.wait(), 7);
    let part = cluster.path().join("B.mp4.part");
    let mut data = fs::read(&part).expect("a part");
    data[70_000] ^= 1;
    fs::write(&part, data).expect("written");
    cluster.run(&["fetch", &url]).expect(0);
    assert_eq!(b3(cluster.path().join("B.mp4")), b3(clip("B.mp4")));
}

#[test]
fn exit_codes_tell_what_happened() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4", "B.mp4"])]);
    let code = |args: &[&str], code| cluster.run(args).expect(code).err;
    assert!(code(&["fetch", &cluster.url("nope.mp4")], 3).contains("nope.mp4"));
    code(&["fetch", &cluster.url("no/*")], 3);
    code(&["fetch", &cluster.url("../etc/passwd")], 2);
    code(&["fetch", "http://example.org/a"], 2);
    code(&["fetch", &cluster.url("A.mp4"), "--limit-rate", "fast"], 2);
    code(&["fetch", &cluster.url("A.mp4"), "--range", "9-3"], 2);
    code(&["fetch", &cluster.url("A.mp4"), "--range", "999999999-"], 2);
    code(&["locate", &cluster.url("nope.mp4")], 3);

    fs::write(cluster.path().join("A.mp4"), "mine").expect("written");
    assert!(code(&["fetch", &cluster.url("A.mp4")], 13).contains("--force"));
    assert_eq!(fs::read(cluster.path().join("A.mp4")).expect("a file"), b"mine");
    cluster.run(&["fetch", &cluster.url("A.mp4"), "--force"]).expect(0);
    assert_eq!(b3(cluster.path().join("A.mp4")), b3(clip("A.mp4")));

    // One of several fails: the others still arrive.
    cluster.run(&["fetch", &cluster.url("nope.mp4"), &cluster.url("B.mp4")]).expect(3);
    assert_eq!(b3(cluster.path().join("B.mp4")), b3(clip("B.mp4")));
}

#[test]
fn a_full_disk_is_an_error_and_the_part_is_kept() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    let small = cluster.path().join("small");
    fs::create_dir(&small).expect("a folder");
    // A disk of 256 kB, seen by this one process tree only.
    let script = format!(
        "mount -t tmpfs -o size=256k tmpfs small && cd small && '{}' fetch '{}'; code=$?; ls -l; exit $code",
        env!("CARGO_BIN_EXE_usher"),
        cluster.url("B.mp4")
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", &script]).current_dir(cluster.path());
    let said = run(command.env("USHER_CA", cluster.ca())).expect(9);
    assert!(said.out.contains("B.mp4.part") && said.err.contains("space"), "{}{}", said.out, said.err);
}

#[test]
fn listings_are_for_people_and_for_programs() {
    let cluster = Cluster::figure_4();
    let table = cluster.run(&["ls", &cluster.url("")]).expect(0).out;
    assert!(table.lines().count() == 10 && table.contains("F.webm"), "{table}");
    assert_eq!(cluster.titles().len(), 9);
    let b = cluster.run(&["locate", &cluster.url("B.mp4"), "--json"]).expect(0);
    assert!(["node-1", "node-2", "node-3"].iter().all(|node| b.out.contains(node)), "{}", b.out);
    let nodes = cluster.run(&["nodes"]).expect(0).out;
    assert!(nodes.contains("node-3") && nodes.contains("serving"), "{nodes}");
    let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
    assert_eq!(nodes[1]["titles"], 5);
}

#[test]
fn an_absent_master_is_named() {
    let cluster = Cluster::empty();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let said = cluster.run(&["fetch", &format!("usher://{nobody}/A.mp4"), "--timeout", "1s"]).expect(6);
    assert!(said.err.contains(&nobody.to_string()), "{}", said.err);
    // Another cluster's authority is no network trouble: the error comes at once and names the file.
    let other = Cluster::empty();
    let said = run(usher().args(["ls", &cluster.url("")]).env("USHER_CA", other.ca()));
    assert!(said.code != 0 && said.err.contains("ca.pem"), "{}", said.err);
}
