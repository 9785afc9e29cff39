//! Loss of the master: running sessions continue, and a master with only its key store learns all of them again.

use std::{
    io::Read,
    process::Stdio,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use usher_kit::{Process, Signal, eventually, run};

use crate::{cluster::Cluster, parts::b3};

/// A player that is `usher play --player -`: it reads a part of its film at each request, and then the rest.
struct Player {
    process: Process,
    more: Sender<()>,
    film: JoinHandle<Vec<u8>>,
    /// Told after each part.
    had: std::sync::mpsc::Receiver<()>,
}

/// Bytes that a player takes at a time: many times less than the windows of its connection.
const PART: usize = 1 << 20;

impl Player {
    fn start(cluster: &Cluster, title: &str) -> Self {
        Self::logging(cluster, title, "warn")
    }

    fn logging(cluster: &Cluster, title: &str, filter: &str) -> Self {
        let url = cluster.url(title);
        let mut play = cluster.usher(&["play", &url, "--player", "-", "--log", filter]);
        let mut process = Process::start(play.stdout(Stdio::piped()));
        let mut out = process.child().stdout.take().expect("piped");
        let (more, wanted) = channel();
        let (tell, had) = channel();
        let film = thread::spawn(move || {
            let mut film = Vec::new();
            while wanted.recv().is_ok() {
                out.by_ref().take(PART as u64).read_to_end(&mut film).expect("a part");
                tell.send(()).expect("heard");
            }
            out.read_to_end(&mut film).expect("the rest");
            film
        });
        Self { process, more, film, had }
    }

    /// Takes a part, and returns when it is there.
    fn part(&self) {
        self.more.send(()).expect("it plays");
        self.had.recv().expect("a part");
    }

    /// Takes all that is left, while the test goes on.
    fn rest(self) -> Rest {
        Rest { process: self.process, film: self.film }
    }
}

struct Rest {
    process: Process,
    film: JoinHandle<Vec<u8>>,
}

impl Rest {
    /// The player has had its film, and never noticed anything.
    fn end(mut self, film: &str) {
        let data = self.film.join().expect("no panic");
        assert_eq!(self.process.wait(), 0, "{}", self.process.seen());
        assert_eq!(blake3::hash(&data).to_hex().to_string(), film);
        let said = self.process.seen();
        assert!(!said.contains("trying") && !said.contains("error"), "{said}");
    }
}

/// Sessions and booked rate that the master knows.
fn known(cluster: &Cluster) -> (u64, u64) {
    let nodes = ["node-1", "node-2"].map(|node| cluster.seen(node));
    let sum = |field: &str| nodes.iter().filter_map(|node| node[field].as_u64()).sum();
    (sum("sessions"), sum("booked_bps"))
}

#[test]
fn a_master_that_was_killed_knows_all_that_runs_and_no_player_notices() {
    let mut cluster = Cluster::empty();
    for node in ["node-1", "node-2"] {
        cluster.add_film(node, "film.mp4", 24);
        cluster.start_node(node, &[]);
    }
    cluster.settled(2);
    let film = b3(cluster.media("node-1").join("film.mp4"));
    let players: Vec<Player> = (0..3).map(|_| Player::start(&cluster, "film.mp4")).collect();
    players.iter().for_each(Player::part);
    // Three sessions, and three times the film's rate.
    let rate = cluster.titles()[0]["bitrate_bps"].as_u64().expect("a rate");
    eventually("three sessions run", || known(&cluster) == (3, 3 * rate));

    cluster.kill_master();
    players.iter().for_each(Player::part);
    cluster.restart_master();
    cluster.settled(2);
    eventually("all are known again", || known(&cluster) == (3, 3 * rate));
    players.iter().for_each(Player::part);

    // It knows them one by one: it can send them elsewhere.
    let rest: Vec<Rest> = players.into_iter().map(Player::rest).collect();
    let drained = run(&mut cluster.operate(&["drain", "node-1", "--deadline", "10m"])).expect(0);
    assert!(drained.err.contains("node-1: empty"), "{}", drained.err);
    rest.into_iter().for_each(|rest| rest.end(&film));
}

#[test]
fn a_second_process_of_a_name_is_told_once_by_both_sides() {
    let mut cluster = Cluster::empty();
    cluster.add_film("node-1", "film.mp4", 1);
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    let (boot, address) = {
        let node = cluster.seen("node-1");
        (node["boot_id"].as_str().expect("a boot").to_owned(), node["addresses"][0].as_str().expect("one").to_owned())
    };
    let state = cluster.path().join("second-state").to_string_lossy().into_owned();
    let mut second =
        Process::start(cluster.node_command("node-1", &["--state", &state]).env("USHER_LOG", "usher_node=debug"));
    let line = second.line_with("the name is taken");
    assert!(line.contains("ERROR") && line.contains(&boot) && line.contains(&address), "{line}");
    // It tries on, in silence.
    eventually("it has tried three times more", || second.seen().matches("still not attached").count() >= 3);
    assert_eq!(second.seen().matches("the name is taken").count(), 1);
    let refused = cluster.master.line_with("attachment refused");
    assert!(refused.contains("WARN") && refused.contains(&boot) && refused.contains(&address), "{refused}");
    assert_eq!(cluster.master.seen().matches("attachment refused").count(), 1);
    assert_eq!(cluster.seen("node-1")["boot_id"].as_str(), Some(boot.as_str()));
    // The first one ends, and the second takes its place.
    cluster.node("node-1").signal(Signal::TERM);
    cluster.node("node-1").wait();
    eventually("the second serves", || {
        let node = cluster.seen("node-1");
        node["state"] == "serving" && node["boot_id"].as_str() != Some(boot.as_str())
    });
}

#[test]
fn a_session_outlives_its_ticket_which_is_renewed_also_by_a_master_that_was_away() {
    let mut cluster = Cluster::with_master(&["--session-lifetime", "1s"]);
    cluster.add_film("node-1", "film.mp4", 24);
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    let film = b3(cluster.media("node-1").join("film.mp4"));
    let mut player = Player::logging(&cluster, "film.mp4", "usher_client=debug");
    player.part();
    for _ in 0..3 {
        player.process.line_with("ticket renewed");
    }
    cluster.kill_master();
    player.process.line_with("ticket not renewed");
    player.part();
    cluster.restart_master();
    player.process.line_with("ticket renewed");
    let Rest { mut process, film: data } = player.rest();
    let data = data.join().expect("no panic");
    assert_eq!(process.wait(), 0, "{}", process.seen());
    assert_eq!(blake3::hash(&data).to_hex().to_string(), film);
    assert!(!process.seen().contains("trying again"), "{}", process.seen());
}
