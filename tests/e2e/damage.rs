//! A damaged disk: no client gets its bytes, and the node stops offering them.

use std::{fs, os::unix::fs::FileExt as _};

use usher_kit::{Signal, eventually};

use crate::{cluster::Cluster, parts::b3};

#[test]
fn a_file_that_rots_is_found_by_the_first_who_fetches_it_and_offered_no_more() {
    let mut cluster = Cluster::empty();
    cluster.add_film("node-1", "film.mp4", 5);
    cluster.add_film("node-1", "other.mp4", 1);
    let film = cluster.media("node-1").join("film.mp4");
    let right = b3(&film);
    // The node watches its folder: what is written under another name, with the time set back, leaves no trace.
    let behind = cluster.path().join("behind");
    fs::hard_link(&film, &behind).expect("linked");
    cluster.start_node("node-1", &[]);
    cluster.settled(2);
    let modified = fs::metadata(&film).and_then(|metadata| metadata.modified()).expect("a time");
    let file = fs::File::options().write(true).open(&behind).expect("opened");
    file.write_all_at(b"bits that flipped", 4 << 20).expect("written");
    file.set_modified(modified).expect("set back");
    drop(file);

    let url = cluster.url("film.mp4");
    let fetch = ["fetch", &url, "-o", "out.mp4"];
    let said = cluster.run(&fetch);
    assert_eq!(said.code, 32, "nobody else has it: {}", said.err);
    assert!(!cluster.path().join("out.mp4").exists());
    let damaged =
        |cluster: &Cluster| cluster.run(&["nodes", "node-1", "--json"]).expect(0).json()[0]["damaged_files"] == 1;
    eventually("node-1 is found to have a damaged file", || damaged(&cluster));
    assert_eq!(cluster.holders("film.mp4"), None, "its only copy is no copy");
    assert_eq!(cluster.holders("other.mp4"), Some(vec!["node-1".to_owned()]));
    let log = cluster.node("node-1").line_with("file damaged");
    assert!(log.contains("film.mp4") && log.contains("usher locate"), "{log}");

    // The verified part is kept, and the fetch goes on at another node.
    cluster.add_film("node-2", "film.mp4", 5);
    cluster.start_node("node-2", &[]);
    cluster.settled(2);
    cluster.run(&fetch).expect(0);
    assert_eq!(b3(cluster.path().join("out.mp4")), right);
    let holders = || cluster.run(&["locate", &url, "--json"]).expect(0).json();
    assert!(holders().to_string().contains("node-2") && !holders().to_string().contains("node-1"), "{}", holders());

    // It stays out over a restart, and comes back when it is replaced.
    cluster.node("node-1").signal(Signal::TERM);
    assert_eq!(cluster.node("node-1").wait(), 0);
    cluster.start_node("node-1", &[]);
    eventually("node-1 is back with its damaged file", || {
        cluster.holders("other.mp4") == Some(vec!["node-1".to_owned()]) && damaged(&cluster)
    });
    assert_eq!(cluster.holders("film.mp4"), Some(vec!["node-2".to_owned()]));
    cluster.add_film("node-1", "film.mp4", 5);
    eventually("the film is whole again", || {
        cluster.holders("film.mp4").is_some_and(|nodes| nodes.len() == 2) && !damaged(&cluster)
    });
}
