//! The commands as a user types them.

use clap::Parser;

use super::*;
use usher_proto::pb::v1::explain_request::About;

use crate::cli::{ExplainArgs, Failure, FetchArgs, LocateArgs, LsArgs, NodesArgs, PlayArgs};

#[derive(Parser)]
enum Command {
    Fetch(FetchArgs),
    Play(PlayArgs),
    Ls(LsArgs),
    Locate(LocateArgs),
    Nodes(NodesArgs),
    Explain(ExplainArgs),
}

/// A cluster of one node with some titles, a folder to work in, and the authority in a file there.
struct Bench {
    folder: tempfile::TempDir,
    running: Running,
    titles: Titles,
    node: Node,
}

impl Bench {
    async fn new(manner: Manner) -> Self {
        Self::of(manner, false).await
    }

    /// The same, perhaps with a roster for operators only.
    async fn of(manner: Manner, admins: bool) -> Self {
        let names = ["films/a.mp4", "films/b.mp4", "films/old/c.mp4", "films/moov-last.mp4", "odd/[x].mp4"];
        let titles = names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), media(at as u64, at as u8)));
        let titles: Titles = Arc::new(titles.collect());
        let node = Node::start("n1", &titles, manner);
        let running = Master::start_for(&titles, vec![Seat::from(&node)], true, admins).await;
        let folder = tempfile::tempdir().expect("temp");
        std::fs::write(folder.path().join("ca.pem"), &running.authority.pem).expect("writes");
        Self { folder, running, titles, node }
    }

    fn url(&self, path: &str) -> String {
        format!("usher://{}/{path}", self.running.address)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn has(&self, name: &str, title: &str) -> bool {
        std::fs::read(self.folder.path().join(name)).is_ok_and(|bytes| bytes == self.titles[title])
    }

    async fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let ca = self.path("ca.pem");
        let words = [&["usher"], words, &["--ca", &ca, "--timeout", "5s"]].concat();
        match Command::try_parse_from(words) {
            Ok(Command::Fetch(args)) => args.run().await,
            Ok(Command::Play(args)) => args.run().await,
            Ok(Command::Ls(args)) => args.run().await,
            Ok(Command::Locate(args)) => args.run().await,
            Ok(Command::Nodes(args)) => args.run().await,
            Ok(Command::Explain(args)) => args.run().await,
            Err(error) => Err(Failure { code: Code::Usage, message: error.to_string() }),
        }
    }

    async fn fetch(&self, paths: &[&str], options: &[&str]) -> Result<(), Code> {
        let urls: Vec<String> = paths.iter().map(|path| self.url(path)).collect();
        let words = ["fetch", "--progress", "none"].into_iter().chain(urls.iter().map(String::as_str));
        let words: Vec<&str> = words.chain(options.iter().copied()).collect();
        self.run(&words).await.map_err(|failure| failure.code)
    }
}

#[tokio::test]
async fn fetch_one_title_and_keep_what_is_there() {
    let bench = Bench::new(Manner::Honest).await;
    let out = bench.path("out.mp4");
    assert_eq!(bench.fetch(&["films/b.mp4"], &["-o", &out]).await, Ok(()));
    assert!(bench.has("out.mp4", "films/b.mp4"));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-o", &out]).await, Err(Code::Exists));
    assert!(bench.has("out.mp4", "films/b.mp4"));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-o", &out, "--force"]).await, Ok(()));
    assert!(bench.has("out.mp4", "films/a.mp4"));
    let id = content(&bench.titles["films/old/c.mp4"]);
    assert_eq!(bench.fetch(&[&id], &["-o", &bench.path(""), "--from-id", "--limit-rate", "1gbit"]).await, Ok(()));
    assert!(bench.has("c.mp4", "films/old/c.mp4"), "a content is named after its title");
    assert_eq!(bench.fetch(&["films/b.mp4"], &["-o", &bench.path("r"), "--range", "5-9"]).await, Ok(()));
    let part = std::fs::read(bench.path("r")).expect("fetched");
    assert_eq!(part, bench.titles["films/b.mp4"][5..10]);
}

#[tokio::test]
async fn what_is_there_already_is_a_success() {
    let bench = Bench::new(Manner::Honest).await;
    let all = bench.path("all");
    assert_eq!(bench.fetch(&["films/*"], &["-o", &all]).await, Ok(()));
    let sessions = bench.node.starts().len();
    std::fs::remove_file(bench.path("all/films/a.mp4")).expect("removes");
    assert_eq!(bench.fetch(&["films/*"], &["-o", &all, "--json"]).await, Ok(()));
    assert!(bench.has("all/films/a.mp4", "films/a.mp4"));
    assert_eq!(bench.node.starts().len(), sessions + 1, "only what was missing is fetched");
    let mut other = bench.titles["films/a.mp4"].clone();
    other[5] ^= 1;
    std::fs::write(bench.path("all/films/a.mp4"), &other).expect("writes");
    assert_eq!(bench.fetch(&["films/*"], &["-o", &all]).await, Err(Code::Exists), "same size, other bytes");
    let b = bench.path("all/films/b.mp4");
    assert_eq!(bench.fetch(&["films/b.mp4"], &["-o", &b, "--range", "5-9"]).await, Err(Code::Exists));
}

#[tokio::test]
async fn a_fifo_is_written_through_and_stays() {
    use std::os::unix::fs::FileTypeExt as _;
    let bench = Bench::new(Manner::Honest).await;
    let fifo = bench.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("makes");
    for options in [&["-o", &fifo][..], &["-o", &fifo, "--force"]] {
        let path = fifo.clone();
        let reader = tokio::task::spawn_blocking(move || std::fs::read(path));
        assert_eq!(bench.fetch(&["films/b.mp4"], options).await, Ok(()));
        assert!(reader.await.expect("reads").is_ok_and(|bytes| bytes == bench.titles["films/b.mp4"]));
        assert!(std::fs::symlink_metadata(&fifo).is_ok_and(|meta| meta.file_type().is_fifo()));
        assert!(!std::path::Path::new(&format!("{fifo}.part")).exists());
    }
}

#[tokio::test]
async fn fetch_patterns_over_one_connection() {
    let bench = Bench::new(Manner::Honest).await;
    let all = bench.path("all");
    assert_eq!(bench.fetch(&["films/**", "odd/[x].mp4"], &["-o", &all, "--json"]).await, Ok(()));
    for title in ["films/a.mp4", "films/b.mp4", "films/old/c.mp4", "films/moov-last.mp4"] {
        assert!(bench.has(&format!("all/{title}"), title), "{title} keeps its folders");
    }
    assert!(bench.has("all/[x].mp4", "odd/[x].mp4"), "a title that looks like a pattern is itself");
    assert_eq!(bench.node.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    let one = bench.path("one");
    assert_eq!(bench.fetch(&["films/*"], &["-o", &one, "--parallel", "1"]).await, Ok(()));
    assert!(
        bench.has("one/films/a.mp4", "films/a.mp4") && !std::path::Path::new(&bench.path("one/films/old")).exists()
    );
}

#[tokio::test]
async fn wrong_fetches_say_why() {
    let bench = Bench::new(Manner::Honest).await;
    let folder = bench.path("x");
    assert_eq!(bench.fetch(&["films/none-*"], &["-o", &folder]).await, Err(Code::NotFound));
    assert_eq!(bench.fetch(&["films/none.mp4"], &["-o", &folder]).await, Err(Code::NotFound));
    assert_eq!(bench.fetch(&["films/a.mp4", "films/a.mp4"], &["-o", &folder]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["../a.mp4"], &[]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["a%00"], &[]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["--range", "9-5"]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["--limit-rate", "fast"]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["--parallel", "0"]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["--parallel", "101"]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-o", "-", "--json"]).await, Err(Code::Usage));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-o", &folder, "--range", "900000-"]).await, Err(Code::BadRange));
    assert!(!std::path::Path::new(&folder).exists(), "nothing was left behind");
    // One of several fails: the others are there, and the exit code is its.
    let both = ["films/a.mp4", "films/none.mp4"];
    assert_eq!(bench.fetch(&both, &["-o", &bench.path("y/")]).await, Err(Code::NotFound));
    assert!(bench.has("y/a.mp4", "films/a.mp4"));
    let unwritable = "/proc/nowhere/a.mp4";
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-o", unwritable]).await, Err(Code::Disk));
}

#[tokio::test]
async fn a_second_fetch_goes_on_where_the_first_stopped() {
    let bench = Bench::new(Manner::Corrupt(2)).await;
    let out = bench.path("c.mp4");
    assert_eq!(bench.fetch(&["films/old/c.mp4"], &["-o", &out]).await, Err(Code::VerificationFailed));
    assert_eq!(std::fs::metadata(format!("{out}.part")).map(|meta| meta.len()).ok(), Some(2 * GROUP));
    assert!(!std::path::Path::new(&out).exists());
    let healed = Node::start("healed", &bench.titles, Manner::Honest);
    let running = Master::start(&bench.titles, vec![Seat::from(&healed)], true).await;
    std::fs::write(bench.path("ca.pem"), &running.authority.pem).expect("writes");
    let bench = Bench { running, ..bench };
    assert_eq!(bench.fetch(&["films/old/c.mp4"], &["-o", &out]).await, Ok(()));
    assert!(bench.has("c.mp4", "films/old/c.mp4"));
    assert_eq!(healed.starts(), [2 * GROUP]);
    assert!(!std::path::Path::new(&format!("{out}.part")).exists());
    assert!(!std::path::Path::new(&format!("{out}.part.state")).exists());
}

#[tokio::test]
async fn play_feeds_a_player() {
    let bench = Bench::new(Manner::Honest).await;
    let player = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = bench.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        path
    };
    let heard = bench.path("heard");
    let url = bench.url("films/b.mp4");
    let play = async |url: &str, player: &str, args: &str| {
        bench.run(&["play", url, "--player", player, "--player-args", args]).await.map_err(|failure| failure.code)
    };
    // It is told to read its standard input after the user's own arguments.
    let all = player("all", r#"[ "$2" = - ] && exec cat > "$1""#);
    assert_eq!(play(&url, &all, &heard).await, Ok(()));
    assert!(bench.has("heard", "films/b.mp4"));
    let quits = player("quits", "exit 0");
    assert_eq!(play(&url, &quits, "-x").await, Ok(()), "quitting early is a success");
    let breaks = player("breaks", "exit 3");
    assert_eq!(play(&url, &breaks, "-x").await, Err(Code::Internal));
    // An index at the end: the player gets a whole file.
    let file = player("file", r#"exec cp "$2" "$1""#);
    assert_eq!(play(&bench.url("films/moov-last.mp4"), &file, &heard).await, Ok(()));
    assert!(bench.has("heard", "films/moov-last.mp4"));
    assert_eq!(play(&bench.url("none"), &all, &heard).await, Err(Code::NotFound));
    assert_eq!(play(&url, "/nonexistent", "-x").await, Err(Code::Usage));
}

#[tokio::test]
async fn listings_reach_the_master() {
    let bench = Bench::new(Manner::Honest).await;
    let url = bench.url("");
    let code = |result: Result<(), Failure>| result.map_err(|failure| failure.code);
    assert_eq!(code(bench.run(&["ls", &url, "-l"]).await), Ok(()));
    assert_eq!(code(bench.run(&["ls", &bench.url("films/*"), "--json"]).await), Ok(()));
    assert_eq!(code(bench.run(&["locate", &bench.url("films/a.mp4")]).await), Ok(()));
    assert_eq!(code(bench.run(&["locate", "films/a.mp4", "--master", &url, "--json"]).await), Ok(()));
    assert_eq!(code(bench.run(&["locate", &bench.url("none")]).await), Err(Code::NotFound));
    assert_eq!(code(bench.run(&["locate", "../x", "--master", &url]).await), Err(Code::Usage));
    assert_eq!(code(bench.run(&["nodes", &url, "--json"]).await), Ok(()));
    assert_eq!(code(bench.run(&["nodes", &url, "n9"]).await), Err(Code::NotFound));
    assert_eq!(code(bench.run(&["nodes", "a", "b"]).await), Err(Code::Usage));
    let client = client(&bench.running, Duration::from_secs(5));
    let titles = client.list("films/", usize::MAX).await.expect("lists");
    assert_eq!(titles.len(), 4, "over all pages");
}

#[tokio::test]
async fn explanations_are_asked_for_as_the_request_would_be() {
    let bench = Bench::new(Manner::Honest).await;
    let explain = async |words: &[&str]| {
        let words = [&["explain"], words].concat();
        bench.run(&words).await.map_err(|failure| failure.code)
    };
    let asked = || bench.running.explained.lock().expect("not poisoned").pop().and_then(|request| request.about);
    let (url, master) = (bench.url("films/a.mp4"), bench.url(""));

    assert_eq!(explain(&[&url]).await, Ok(()));
    let Some(About::Request(request)) = asked() else { panic!("no request") };
    assert_eq!(request.what, Some(v1::resolve_request::What::Title("films/a.mp4".into())));
    assert_eq!((request.purpose, request.rate_bps), (v1::Purpose::Play.into(), 0));

    let id = content(&bench.titles["films/a.mp4"]);
    let words = ["--from-id", "--fetch", "--zone", "north", "--exclude", "n1,n2", "--rate", "25mbit", "--json"];
    assert_eq!(explain(&[&[id.as_str(), "--master", &master], &words[..]].concat()).await, Ok(()));
    let Some(About::Request(request)) = asked() else { panic!("no request") };
    assert_eq!(request.what, Some(v1::resolve_request::What::ContentId(id)));
    assert_eq!((request.purpose, request.rate_bps), (v1::Purpose::Fetch.into(), 25_000_000));
    assert_eq!((request.zone.as_str(), request.exclude), ("north", vec!["n1".to_owned(), "n2".to_owned()]));

    assert_eq!(explain(&["--request", "0123", "--master", &master]).await, Ok(()));
    assert_eq!(asked(), Some(About::RequestId("0123".into())));
    assert_eq!(explain(&[&master, "--request", "forgotten"]).await, Err(Code::NotFound));
    for wrong in [
        &[][..],
        &["../x"],
        &["usher://a b/x"],
        &["x", "--exclude", "NOT OK"],
        &["x", "--rate", "fast"],
        &[&url, "--request", "0123"],
        &["--request", "0123", "--fetch"],
    ] {
        assert_eq!(explain(wrong).await, Err(Code::Usage), "{wrong:?}");
    }
}

#[tokio::test]
async fn the_request_id_of_a_fetch_is_what_the_master_heard() {
    let bench = Bench::new(Manner::Honest).await;
    let client = client(&bench.running, Duration::from_secs(5));
    let title = Title::parse("films/a.mp4").expect("valid");
    let outcome = client.fetch_to(&title, &mut PipeSink::new(Vec::new()), &|_| ()).await.expect("fetched");
    let heard = bench.running.asked.lock().expect("not poisoned").last().map(|(_, id)| id.clone());
    assert_eq!((Some(outcome.request_id.clone()), client.request_id()), (heard, outcome.request_id.as_str()));
    assert_eq!(bench.fetch(&["films/a.mp4"], &["-v", "-o", &bench.path("a.mp4")]).await, Ok(()));
}

#[tokio::test]
async fn a_roster_for_operators_wants_their_certificate() {
    use usher_certs::{Identity, Role};
    let bench = Bench::of(Manner::Honest, true).await;
    let issue = |role: Role, file: &str| {
        let identity = Identity::new(role, "someone").expect("a name");
        let issued = bench.running.issuer.issue(&identity, &[], std::time::SystemTime::now()).expect("signs");
        std::fs::write(bench.path(&format!("{file}.pem")), issued.cert_pem).expect("writes");
        std::fs::write(bench.path(&format!("{file}.key")), issued.key_pem.as_str()).expect("writes");
    };
    issue(Role::Admin, "admin");
    issue(Role::Node, "node");
    let url = bench.url("");
    let title = bench.url("films/a.mp4");
    let path = |name: &str| bench.path(name);
    for (cert, key, expected) in [
        ("admin.pem", "admin.key", Ok(())),
        ("node.pem", "node.key", Err((Code::Denied, "not an operator's"))),
        ("admin.pem", "node.key", Err((Code::Usage, "does not match"))),
        ("none.pem", "admin.key", Err((Code::Usage, "none.pem"))),
        ("admin.key", "admin.key", Err((Code::Usage, "admin.key"))),
    ] {
        for what in [["nodes", &url], ["explain", &title]] {
            let (cert, key) = (path(cert), path(key));
            let words = [&what[..], &["--cert", &cert, "--key", &key]].concat();
            match (bench.run(&words).await, expected) {
                (Ok(()), Ok(())) => {}
                (Err(failure), Err((code, part))) if failure.code == code => {
                    assert!(failure.message.contains(part), "{cert}, {key}: {failure}");
                }
                (got, expected) => panic!("{what:?} with {cert}, {key}: {got:?}, not {expected:?}"),
            }
        }
    }
    for what in [["nodes", &url], ["explain", &title]] {
        let failure = bench.run(&what).await.expect_err("refused");
        assert_eq!(failure.code, Code::Unauthenticated);
        assert!(failure.message.contains("--cert FILE --key FILE"), "{failure}");
    }
    let half = bench.run(&["nodes", &url, "--cert", &path("admin.pem")]).await;
    assert_eq!(half.map_err(|failure| failure.code), Err(Code::Usage));
}
