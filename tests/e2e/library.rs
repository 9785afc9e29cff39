//! Libraries: what is in the folders is what the master knows, within seconds and across restarts.

use std::{fs, io::Write as _, os::unix::fs::symlink};

use usher_kit::{Signal, eventually};

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
};

#[test]
fn files_come_change_move_and_go() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    let media = cluster.media("node-1");
    let content = |title: &str| {
        let titles = cluster.titles();
        let entry = titles.iter().find(|entry| entry["title"] == title)?.clone();
        entry["content_id"].as_str().map(str::to_owned)
    };

    cluster.add("node-1", "new/folder/B.mp4", clip("B.mp4"));
    eventually("B is added", || content("new/folder/B.mp4") == Some(b3(clip("B.mp4"))));
    fs::rename(media.join("new"), media.join("old")).expect("renamed");
    eventually("B is renamed", || {
        cluster.holders("new/folder/B.mp4").is_none() && content("old/folder/B.mp4") == Some(b3(clip("B.mp4")))
    });
    cluster.add("node-1", "A.mp4", clip("C.mp4"));
    eventually("A is replaced", || content("A.mp4") == Some(b3(clip("C.mp4"))));
    fs::remove_file(media.join("A.mp4")).expect("removed");
    eventually("A is removed", || cluster.holders("A.mp4").is_none());

    // Still being written: not offered until it is closed.
    let data = fs::read(clip("D.mp4")).expect("a clip");
    let mut file = fs::File::create(media.join("D.mp4")).expect("created");
    file.write_all(&data[..100_000]).expect("written");
    cluster.add("node-1", "after.mp4", clip("E.mp4"));
    eventually("what came later is there", || cluster.holders("after.mp4").is_some());
    assert_eq!(cluster.holders("D.mp4"), None);
    file.write_all(&data[100_000..]).expect("written");
    drop(file);
    eventually("D is whole", || content("D.mp4") == Some(b3(clip("D.mp4"))));
}

#[test]
fn nothing_but_whole_media_inside_the_volume_is_offered() {
    let mut cluster = Cluster::empty();
    let media = cluster.media("node-1");
    fs::create_dir_all(&media).expect("a folder");
    fs::write(media.join("empty.mp4"), "").expect("written");
    fs::write(media.join("text.mp4"), "this is no film\n".repeat(1000)).expect("written");
    let data = fs::read(clip("B.mp4")).expect("a clip");
    fs::write(media.join("cut.mp4"), &data[..20_000]).expect("written");
    let secret = cluster.path().join("secret.mp4");
    fs::copy(clip("A.mp4"), &secret).expect("copied");
    symlink(&secret, media.join("link.mp4")).expect("linked");
    symlink(cluster.path(), media.join("folder")).expect("linked");
    fs::copy(clip("C.mp4"), media.join("good.mp4")).expect("copied");
    run_fifo(&media.join("pipe.mp4"));

    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    assert!(cluster.holders("good.mp4").is_some());
    let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
    assert!(nodes[0]["rejected_files"].as_u64().is_some_and(|n| n >= 3), "{nodes}");
    for title in ["empty.mp4", "text.mp4", "cut.mp4", "link.mp4", "folder/secret.mp4", "pipe.mp4"] {
        cluster.run(&["fetch", &cluster.url(title), "-o", "nothing.mp4"]).expect(3);
    }
}

fn run_fifo(path: &std::path::Path) {
    let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success());
}

#[test]
fn a_restart_hashes_nothing_again() {
    let mut cluster = Cluster::with(&[("node-1", &["A.mp4", "B.mp4", "G.ts"])]);
    let first = cluster.node("node-1").line_with("library is hashed");
    assert!(first.contains("hashed_bytes=") && !first.contains("hashed_bytes=0"), "{first}");
    cluster.node("node-1").signal(Signal::TERM);
    assert_eq!(cluster.node("node-1").wait(), 0);
    cluster.start_node("node-1", &[]);
    cluster.settled(3);
    let second = cluster.node("node-1").line_with("library is hashed");
    assert!(second.contains("hashed_bytes=0"), "{second}");
    cluster.run(&["fetch", &cluster.url("B.mp4")]).expect(0);
}

#[test]
fn one_name_for_two_contents_is_told_apart() {
    let mut cluster = Cluster::with(&[("node-1", &["A.mp4"]), ("node-2", &["A.mp4"])]);
    cluster.add("node-3", "A.mp4", clip("C.mp4"));
    cluster.start_node("node-3", &[]);
    eventually("the conflict is seen", || cluster.titles().iter().any(|t| t["conflict"] == true));
    eventually("both contents are hashed", || {
        cluster.run(&["locate", &cluster.url("A.mp4"), "--json"]).out.contains(&b3(clip("C.mp4")))
    });
    // The majority by name, the other by its id.
    cluster.run(&["fetch", &cluster.url("A.mp4"), "-o", "name.mp4"]).expect(0);
    assert_eq!(b3(cluster.path().join("name.mp4")), b3(clip("A.mp4")));
    let id = b3(clip("C.mp4"));
    cluster.run(&["fetch", "--from-id", &cluster.url(&id), "-o", "id.mp4"]).expect(0);
    assert_eq!(b3(cluster.path().join("id.mp4")), id);
}

#[test]
fn a_title_on_two_volumes_of_a_node_has_two_copies() {
    let mut cluster = Cluster::empty();
    let second = cluster.path().join("second");
    fs::create_dir(&second).expect("a folder");
    cluster.add("node-1", "A.mp4", clip("A.mp4"));
    fs::copy(clip("A.mp4"), second.join("A.mp4")).expect("copied");
    let second = second.to_string_lossy().into_owned();
    cluster.start_node("node-1", &["--media", &second]);
    eventually("two copies are known", || {
        let said = cluster.run(&["locate", &cluster.url("A.mp4"), "--json"]);
        said.code == 0 && said.out.matches("\"volume\"").count() == 2
    });
    // One volume loses it: the other serves on.
    fs::remove_file(cluster.media("node-1").join("A.mp4")).expect("removed");
    eventually("one copy is left", || {
        let said = cluster.run(&["locate", &cluster.url("A.mp4"), "--json"]);
        said.code == 0 && said.out.matches("\"volume\"").count() == 1
    });
    cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
}
