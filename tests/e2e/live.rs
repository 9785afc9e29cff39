//! Live feeds: what a real ffmpeg writes goes in at one node and comes out at every other, at once, whole, and also while
//! nodes die.

mod record;

use std::{
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use usher_kit::{Process, Signal, eventually, run};

use crate::{cluster::Cluster, parts::real_part, play::property};

/// Frames a second, and frames of a group.
const RATE: u64 = 25;

/// A publisher, and the encoder that feeds it.
struct Feed {
    encoder: Child,
    publisher: Process,
}

impl Drop for Feed {
    fn drop(&mut self) {
        // It may have ended with its pipe.
        drop(self.encoder.kill());
        drop(self.encoder.wait());
    }
}

/// A test picture and tone in real time, with a keyframe each second.
fn encoder(format: &[&str]) -> Command {
    let mut command = Command::new(real_part("ffmpeg"));
    command.args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25"]);
    command.args([
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:sample_rate=48000",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
    ]);
    command
        .args(["-tune", "zerolatency", "-g", "25", "-b:v", "400k", "-c:a", "aac", "-t", "120"])
        .args(format)
        .arg("-");
    command.stdin(Stdio::null());
    command
}

const MPEGTS: &[&str] = &["-f", "mpegts"];
const FMP4: &[&str] = &["-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof"];

impl Cluster {
    /// A master and these nodes, each with its flags.
    fn live(nodes: &[(&str, &[&str])]) -> Self {
        let mut cluster = Self::empty();
        for (node, flags) in nodes {
            cluster.start_node(node, flags);
        }
        eventually("all nodes serve", || nodes.iter().all(|(node, _)| cluster.seen(node)["state"] == "serving"));
        cluster
    }

    /// The arguments that show a publisher's certificate.
    fn publisher(&self, name: &str) -> [String; 4] {
        let file = |end: &str| self.certs().join(format!("publisher-{name}.{end}")).to_string_lossy().into_owned();
        if !Path::new(&file("pem")).exists() {
            run(crate::parts::usher().args(["certs", "issue", "publisher", name, "--dir"]).arg(self.certs())).expect(0);
        }
        ["--cert".to_owned(), file("pem"), "--key".to_owned(), file("key")]
    }

    /// Publishes `live/NAME`, and waits until the master knows it.
    fn publish(&self, name: &str, format: &[&str], more: &[&str]) -> Feed {
        let mut encoder = encoder(format).stdout(Stdio::piped()).spawn().expect("ffmpeg starts");
        let input = encoder.stdout.take().expect("piped");
        let mut command = self.usher(&["publish", &format!("live/{name}"), "-"]);
        command.args(self.publisher(name)).args(more).stdin(input);
        let publisher = Process::start(&mut command);
        let feed = Feed { encoder, publisher };
        eventually("the feed is on the air", || self.feed(name)["bitrate_bps"].as_u64().is_some_and(|rate| rate > 0));
        feed
    }

    /// A feed as `usher ls --json` shows it; null when there is none.
    fn feed(&self, name: &str) -> serde_json::Value {
        let all = self.run(&["ls", "--json", &self.url("live/")]);
        let titles: Vec<serde_json::Value> = serde_json::from_str(&all.out).unwrap_or_default();
        titles.into_iter().find(|title| title["title"] == format!("live/{name}")).unwrap_or_default()
    }

    /// The node that takes a feed in.
    fn ingest(&self, name: &str) -> String {
        self.feed(name)["live"]["ingest"].as_str().unwrap_or_default().to_owned()
    }

    /// The nodes that carry a feed.
    fn carriers(&self, name: &str) -> Vec<String> {
        self.holders(&format!("live/{name}")).unwrap_or_default()
    }

    /// Records from a feed.
    fn record(&self, name: &str, file: &str, more: &[&str]) -> Process {
        let title = format!("live/{name}");
        self.start(&[&["fetch", &title, "-o", file, "--progress", "json"], more].concat())
    }

    fn kill_node(&mut self, node: &str) {
        let at = self.nodes.iter().position(|(name, _)| name == node).expect("a node that runs");
        // Dropped, it is killed.
        drop(self.nodes.remove(at));
    }
}

/// The pictures of a recording, which a decoder takes without a word of complaint.
#[track_caller]
fn frames(cluster: &Cluster, file: &str) -> u64 {
    let mut probe = Command::new(real_part("ffprobe"));
    probe.args(["-v", "warning", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames"]);
    let said = run(probe.args(["-of", "csv=p=0"]).arg(cluster.path().join(file))).expect(0);
    assert_eq!(said.err, "", "ffprobe finds fault with {file}");
    let lines = said.out.lines().filter_map(|line| line.trim_matches(',').parse().ok());
    lines.max().unwrap_or_else(|| panic!("no frames in {}", said.out))
}

/// Waits until a recording has that many groups, and interrupts it. Returns how many it has at its end: groups begin when
/// the encoder gets to them, so that a number of seconds would not predict them on a busy machine.
#[track_caller]
fn groups(cluster: &Cluster, recording: &mut Process, file: &str, least: u64) -> u64 {
    let has = |line: &str| {
        let progress: Option<serde_json::Value> = serde_json::from_str(line).ok();
        progress.and_then(|progress| progress["groups"].as_u64()).is_some_and(|groups| groups >= least)
    };
    eventually("so many groups are recorded", || {
        let ended = recording.child().try_wait().is_ok_and(|status| status.is_some());
        assert!(!ended, "{}", recording.seen());
        recording.seen().lines().rev().any(has)
    });
    recording.signal(Signal::INT);
    let told = done(recording);
    let groups = told["groups"].as_u64().unwrap_or_default();
    assert!(groups >= least && told["dropped_groups"] == 0, "{told}");
    assert_eq!(frames(cluster, file), groups * RATE, "not a picture is missing, and none comes twice");
    groups
}

/// The last event of a recording.
fn done(recording: &mut Process) -> serde_json::Value {
    assert_eq!(recording.wait(), 0, "{}", recording.seen());
    let said = recording.seen();
    let last = said.lines().rev().find(|line| line.contains("\"done\"")).unwrap_or_else(|| panic!("no end in {said}"));
    serde_json::from_str(last).expect("JSON")
}

#[test]
fn a_feed_goes_in_and_comes_out_and_ends() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let mut feed = cluster.publish("cam1", MPEGTS, &[]);
    let shown = cluster.feed("cam1");
    assert_eq!((&shown["media_type"], &shown["nodes"][0]), (&"video/mp2t".into(), &"node-1".into()), "{shown}");
    let codecs: Vec<&str> = shown["live"]["tracks"]
        .as_array()
        .expect("tracks")
        .iter()
        .filter_map(|track| track["codec"].as_str())
        .collect();
    assert!(codecs.contains(&"h264") && codecs.contains(&"aac"), "{shown}");
    assert!(cluster.run(&["ls"]).expect(0).out.contains("live 0:"));

    let mut recording = cluster.record("cam1", "a.ts", &["--duration", "3s"]);
    let told = done(&mut recording);
    assert_eq!((told["groups"].as_u64(), told["dropped_groups"].as_u64()), (Some(3), Some(0)), "{told}");
    assert_eq!(frames(&cluster, "a.ts"), 3 * RATE);
    let said = cluster.run(&["fetch", "live/cam1", "-o", "a.ts", "--duration", "3s"]);
    assert!(said.code == 13 && said.err.contains("--force"), "{}", said.err);

    let socket = cluster.path().join("mpv.sock");
    let options = format!("--no-config --vo=null --ao=null --input-ipc-server={}", socket.display());
    let player = real_part("mpv");
    let mut play =
        Process::start(cluster.usher(&["play", "live/cam1", "--player"]).arg(player).args(["--player-args", &options]));
    let mut first = None;
    eventually("the position in the feed advances", || {
        let Some(position) = property(&socket, "time-pos") else { return false };
        position > *first.get_or_insert(position) + 1.0
    });
    eventually("the viewer is counted", || cluster.feed("cam1")["live"]["viewers"] == 1);

    // Its publisher ends it, and everyone who watches comes to an end.
    let mut endless = cluster.record("cam1", "b.ts", &[]);
    endless.line_with("progress");
    feed.publisher.signal(Signal::INT);
    assert_eq!(feed.publisher.wait(), 0, "{}", feed.publisher.seen());
    assert_eq!(done(&mut endless)["dropped_groups"], 0);
    assert!(frames(&cluster, "b.ts") > 0);
    play.wait();
    eventually("the feed is gone", || cluster.feed("cam1").is_null());
    let said = cluster.run(&["play", "live/cam1", "--player", "-", "--timeout", "2s"]);
    assert_eq!(said.code, 3, "{}", said.err);
}

#[test]
fn fragmented_mp4_is_taken_too() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let _feed = cluster.publish("cam1", FMP4, &[]);
    assert_eq!(cluster.feed("cam1")["media_type"], "video/mp4");
    let mut recording = cluster.record("cam1", "a.mp4", &["--duration", "3s"]);
    assert_eq!(done(&mut recording)["groups"], 3);
    assert_eq!(frames(&cluster, "a.mp4"), 3 * RATE);
}

#[test]
fn viewers_begin_where_they_want_within_the_window() {
    let cluster = Cluster::live(&[("node-1", &["--live-window", "6s"])]);
    let _feed = cluster.publish("cam1", MPEGTS, &[]);
    // Until something has left the window.
    let mut endless = cluster.record("cam1", "long.ts", &["--duration", "9s"]);
    done(&mut endless);
    // Groups that the node has already come faster than they play.
    let mut recording = cluster.record("cam1", "back.ts", &["--from", "-4s", "--duration", "4s"]);
    let told = done(&mut recording);
    assert_eq!(frames(&cluster, "back.ts"), 4 * RATE);
    assert!(told["elapsed_ms"].as_u64().is_some_and(|elapsed| elapsed < 4000), "{told}");
    let mut newest = cluster.record("cam1", "new.ts", &["--from", "newest", "--duration", "2s"]);
    assert_eq!(done(&mut newest)["groups"], 2);
    let said = cluster.run(&["play", "live/cam1", "--from", "30s"]);
    assert!(said.code == 2 && said.err.contains("-30s"), "{}", said.err);
}

#[test]
fn who_may_publish_what() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let mut feed = cluster.publish("cam1", MPEGTS, &[]);
    let publish = |title: &str, rights: &[String], more: &[&str]| {
        let mut encoder = encoder(MPEGTS).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ffmpeg starts");
        let mut command = cluster.usher(&["publish", title, "-"]);
        command.args(rights).args(more).stdin(encoder.stdout.take().expect("piped"));
        let said = run(&mut command);
        drop((encoder.kill(), encoder.wait()));
        said
    };
    let cam1 = cluster.publisher("cam1");
    for (title, rights, code, word) in [
        ("live/cam2", &cam1[..], 5, "live/cam1/"),
        ("live/cam1", &cluster.publisher("cam2"), 5, "cam2"),
        ("films/cam1", &cam1, 2, "live/NAME"),
        ("live/../x", &cam1, 2, "live"),
        ("live/cam1", &cam1, 13, "--take-over"),
    ] {
        let said = publish(title, rights, &[]);
        assert!(said.code == code && said.err.contains(word), "{title}: {} {}", said.code, said.err);
    }
    // Input that is no media is refused.
    let said = run(cluster.usher(&["publish", "live/cam1/text", "-i"]).arg(cluster.ca()).args(&cam1));
    assert!(said.code != 0 && said.err.contains("mpegts"), "{}", said.err);

    // A publisher that takes over goes on with the same feed, and viewers with it.
    let mut viewer = cluster.record("cam1", "a.ts", &["--duration", "9s"]);
    viewer.line_with("progress");
    let _other = cluster.publish("cam1", MPEGTS, &["--take-over"]);
    assert_eq!(feed.publisher.wait(), 13, "{}", feed.publisher.seen());
    assert!(done(&mut viewer)["groups"].as_u64().is_some_and(|groups| groups >= 8));
}

#[test]
fn a_viewer_that_reads_nothing_holds_up_nobody() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let mut feed = cluster.publish("cam1", MPEGTS, &[]);
    let mut slow = Process::start(
        cluster.usher(&["play", "live/cam1", "--player", "-", "--latency", "2s"]).stdout(Stdio::piped()),
    );
    let mut out = slow.child().stdout.take().expect("piped");
    let mut first = [0; 188];
    out.read_exact(&mut first).expect("its first packet");
    let mut recording = cluster.record("cam1", "a.ts", &["--duration", "10s"]);
    let told = done(&mut recording);
    assert_eq!((told["groups"].as_u64(), told["dropped_groups"].as_u64()), (Some(10), Some(0)));
    assert_eq!(frames(&cluster, "a.ts"), 10 * RATE);
    // It reads again, and learns of the dropped groups.
    let reader = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    slow.line_with("dropped");
    feed.publisher.signal(Signal::INT);
    assert_eq!(feed.publisher.wait(), 0);
    assert_eq!(slow.wait(), 0, "{}", slow.seen());
    reader.join().expect("it read").expect("to the end");
}

#[test]
fn a_feed_outlives_the_node_that_takes_it_in() {
    let mut cluster = Cluster::live(&[("node-1", &[]), ("node-2", &[]), ("node-3", &[])]);
    let mut feed = cluster.publish("cam1", MPEGTS, &[]);
    let mut viewer = cluster.record("cam1", "a.ts", &[]);
    viewer.line_with("progress");
    let ingest = cluster.ingest("cam1");
    cluster.kill_node(&ingest);
    groups(&cluster, &mut viewer, "a.ts", 12);
    assert_ne!(cluster.ingest("cam1"), ingest);
    feed.publisher.signal(Signal::INT);
    assert_eq!(feed.publisher.wait(), 0, "{}", feed.publisher.seen());
}

/// A node in the publisher's zone, and two where the viewers are.
fn zones() -> Cluster {
    Cluster::live(&[
        ("node-1", &["--zone", "studio"]),
        ("node-2", &["--zone", "town"]),
        ("node-3", &["--zone", "town"]),
    ])
}

#[test]
fn a_viewers_node_gets_the_feed_once_and_lets_go_of_it() {
    let cluster = zones();
    let _feed = cluster.publish("cam1", MPEGTS, &["--zone", "studio"]);
    assert_eq!(cluster.ingest("cam1"), "node-1");
    let town = &["--zone", "town"];
    let mut first = cluster.record("cam1", "a.ts", town);
    first.line_with("progress");
    let mut second = cluster.record("cam1", "b.ts", town);
    for (recording, least, file) in [(&mut second, 4, "b.ts"), (&mut first, 6, "a.ts")] {
        groups(&cluster, recording, file, least);
        assert!(recording.seen().contains("from") && !recording.seen().contains("\"node\":\"node-1\""));
    }
    let carried = cluster.carriers("cam1");
    assert_eq!(carried.len(), 2, "both watched at one node: {carried:?}");
    eventually("the other node lets go", || cluster.carriers("cam1") == ["node-1"]);
}

#[test]
fn losing_an_edge_costs_its_viewers_nothing() {
    let mut cluster = zones();
    let _feed = cluster.publish("cam1", MPEGTS, &["--zone", "studio"]);
    let mut viewer = cluster.record("cam1", "a.ts", &["--zone", "town"]);
    viewer.line_with("progress");
    let edge = cluster.carriers("cam1").into_iter().find(|node| node != "node-1").expect("an edge");
    cluster.kill_node(&edge);
    groups(&cluster, &mut viewer, "a.ts", 12);
}

#[test]
fn a_drained_node_sends_publisher_and_viewers_on() {
    let cluster = Cluster::live(&[("node-1", &[]), ("node-2", &[])]);
    let _feed = cluster.publish("cam1", MPEGTS, &[]);
    let mut viewer = cluster.record("cam1", "a.ts", &[]);
    viewer.line_with("progress");
    let ingest = cluster.ingest("cam1");
    let said = run(&mut cluster.operate(&["drain", &ingest, "--deadline", "30s"])).expect(0);
    assert!(!said.err.contains("only"), "{}", said.err);
    groups(&cluster, &mut viewer, "a.ts", 12);
    assert_ne!(cluster.ingest("cam1"), ingest);
}

#[test]
fn a_master_that_was_started_again_knows_the_feeds() {
    let mut cluster = zones();
    let _feed = cluster.publish("cam1", MPEGTS, &["--zone", "studio"]);
    // It watches for as long as the master takes to know it.
    let mut viewer = cluster.record("cam1", "a.ts", &["--zone", "town"]);
    viewer.line_with("progress");
    cluster.restart_master();
    eventually("the master knows the feed", || {
        let feed = cluster.feed("cam1");
        feed["live"]["ingest"] == "node-1" && feed["live"]["viewers"] == 1
    });
    groups(&cluster, &mut viewer, "a.ts", 10);
    let mut late = cluster.record("cam1", "b.ts", &["--zone", "town"]);
    groups(&cluster, &mut late, "b.ts", 2);
}

#[test]
fn draining_the_ingest_node_leaves_no_relay_behind() {
    let cluster = zones();
    let _feed = cluster.publish("cam1", MPEGTS, &["--zone", "studio"]);
    // It begins before its node has anything of the feed.
    let mut viewer = cluster.record("cam1", "a.ts", &["--from", "-20s", "--zone", "town"]);
    viewer.line_with("progress");
    let said = run(&mut cluster.operate(&["drain", "node-1", "--deadline", "60s"])).expect(0);
    assert!(!said.out.contains("60 s") && cluster.seen("node-1")["sessions"] == 0, "{}", said.out);
    groups(&cluster, &mut viewer, "a.ts", 14);
}

#[test]
fn a_killed_publisher_may_come_again_and_an_interrupted_recording_is_whole() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let mut feed = cluster.publish("cam1", MPEGTS, &[]);
    let mut recording = cluster.record("cam1", "a.ts", &[]);
    eventually("some groups came", || recording.seen().contains("\"groups\":3"));
    recording.signal(Signal::INT);
    assert!(done(&mut recording)["groups"].as_u64().is_some_and(|groups| groups >= 3));
    assert_eq!(frames(&cluster, "a.ts") % RATE, 0, "nothing of a group that is not whole");
    feed.publisher.signal(Signal::KILL);
    feed.publisher.wait();
    eventually("its node notices", || cluster.feed("cam1")["live"]["interrupted"] == true);
    let _again = cluster.publish("cam1", MPEGTS, &[]);
    eventually("it is on the air again", || cluster.feed("cam1")["live"]["interrupted"] == false);
    for (args, word) in [
        (&["fetch", "live/*"][..], "by its name"),
        (&["fetch", "live/cam1", "--limit-rate", "1mbit"], "--limit-rate"),
        (&["fetch", "live/cam1", "--duration", "0s"], "longer than 0s"),
        (&["fetch", "live/cam1", "--range", "0-9"], "--from"),
    ] {
        let said = cluster.run(args);
        assert!(said.code == 2 && said.err.contains(word), "{args:?}: {} {}", said.code, said.err);
    }
}
