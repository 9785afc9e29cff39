//! `usher play`: a real mpv plays what comes, before all of it is there.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Stdio,
};

use usher_kit::{Process, Signal, eventually};

use crate::{
    cluster::Cluster,
    parts::{b3, clip, real_part},
};

/// The value of a property of mpv, over its IPC socket; `None` while there is none.
pub(crate) fn property(socket: &std::path::Path, name: &str) -> Option<f64> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(format!("{{\"command\":[\"get_property\",\"{name}\"],\"request_id\":7}}\n").as_bytes()).ok()?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let reply: serde_json::Value = serde_json::from_str(&line).ok()?;
        if reply["request_id"] == 7 {
            return reply["data"].as_f64();
        }
    }
    None
}

#[test]
fn mpv_plays_and_its_position_advances() {
    let mpv = real_part("mpv");
    let cluster = Cluster::figure_4();
    for title in ["B.mp4", "F.webm", "G.ts"] {
        let socket = cluster.path().join(format!("{title}.sock"));
        let options = format!("--no-config --vo=null --ao=null --input-ipc-server={}", socket.display());
        let mut play = Process::start(
            cluster.usher(&["play", &cluster.url(title), "--player"]).arg(&mpv).args(["--player-args", &options]),
        );
        let mut first = None;
        eventually(&format!("the position in {title} advances"), || {
            let Some(position) = property(&socket, "time-pos") else { return false };
            position > *first.get_or_insert(position)
        });
        play.signal(Signal::INT);
        play.wait();
    }
}

#[test]
fn stdout_is_a_player_too_and_gets_bytes_before_the_end() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    let mut play =
        Process::start(cluster.usher(&["play", &cluster.url("B.mp4"), "--player", "-"]).stdout(Stdio::piped()));
    let mut out = play.child().stdout.take().expect("piped");
    let mut data = vec![0; 100];
    out.read_exact(&mut data).expect("the first bytes");
    out.read_to_end(&mut data).expect("the rest");
    assert_eq!(play.wait(), 0);
    assert_eq!(blake3::hash(&data).to_hex().to_string(), b3(clip("B.mp4")));
}

#[test]
fn a_missing_player_is_an_error() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    let said = cluster.run(&["play", &cluster.url("A.mp4"), "--player", "no-such-player"]);
    assert!(said.code != 0 && said.err.contains("no-such-player"), "{}", said.err);
    let said = usher_kit::run(cluster.usher(&["play", &cluster.url("A.mp4")]).env("PATH", cluster.path()));
    assert!(said.code != 0 && said.err.contains("mpv") && said.err.contains("ffplay"), "{}", said.err);
}
