//! A feed that is published with --record becomes a title once it is over.

use std::fs;

use super::{FMP4, MPEGTS, frames};
use usher_kit::{Signal, eventually, run};

use crate::cluster::Cluster;

impl Cluster {
    /// Waits for so many recordings of a feed, all hashed; their titles.
    fn recordings(&self, name: &str, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        eventually("the recordings are titles", || {
            found = self
                .titles()
                .into_iter()
                .filter(|title| title["content_id"].as_str().is_some_and(|id| id.len() == 64))
                .filter_map(|title| title["title"].as_str().map(str::to_owned))
                .filter(|title| title.starts_with(&format!("recordings/{name}/")))
                .collect();
            found.len() == count
        });
        found
    }
}

#[test]
fn a_recorded_feed_becomes_a_title() {
    let mut cluster = Cluster::empty();
    let folder = cluster.path().join("kept");
    let flags = ["--recordings", &folder.to_string_lossy()];
    let said = run(cluster.node_command("node-1", &flags).arg("--check-config"));
    assert!(said.code != 0 && said.err.contains("recordings"), "{}", said.err);
    fs::create_dir(&folder).expect("made");
    cluster.start_node("node-1", &flags);
    eventually("the node serves", || cluster.seen("node-1")["state"] == "serving");
    for (name, format, end) in [("cam1", MPEGTS, ".ts"), ("cam2", FMP4, ".mp4")] {
        let mut feed = cluster.publish(name, format, &["--record"]);
        let mut viewer = cluster.record(name, &format!("seen{end}"), &["--duration", "3s"]);
        assert_eq!(viewer.wait(), 0, "{}", viewer.seen());
        feed.publisher.signal(Signal::INT);
        assert_eq!(feed.publisher.wait(), 0, "{}", feed.publisher.seen());
        let title = cluster.recordings(name, 1).remove(0);
        assert!(title.ends_with(end), "{title}");
        let file = format!("fetched{end}");
        cluster.run(&["fetch", &cluster.url(&title), "-o", &file]).expect(0);
        assert!(frames(&cluster, &file) >= frames(&cluster, &format!("seen{end}")));
    }
}

#[test]
fn a_node_without_recordings_refuses_recorded_feeds() {
    let cluster = Cluster::live(&[("node-1", &[])]);
    let mut command = cluster.usher(&["publish", "live/cam1", "--record", "--timeout", "2s", "-i"]);
    let said = run(command.arg(crate::parts::clip("G.ts")).args(cluster.publisher("cam1")));
    assert!(said.code != 0 && said.err.contains("not equipped"), "{}: {}", said.code, said.err);
}
