//! The commands as a user types them.

use clap::Parser;
use tokio::sync::mpsc;

use usher_media::samples;

use super::*;
use usher_proto::pb::v1::explain_request::About;

use crate::cli::{ExplainArgs, Failure, FetchArgs, LocateArgs, LsArgs, NodesArgs, PlayArgs};

#[derive(Parser)]
enum TestCommand {
    Fetch(FetchArgs),
    Play(PlayArgs),
    Ls(LsArgs),
    Locate(LocateArgs),
    Nodes(NodesArgs),
    Explain(ExplainArgs),
}

/// A cluster of one node with some titles, and a folder with the authority's certificate.
pub(super) struct CommandFixture {
    folder: tempfile::TempDir,
    running: RunningMaster,
    titles: Titles,
    node: TestNode,
}

impl CommandFixture {
    async fn new(behaviour: Behaviour) -> Self {
        Self::of(behaviour, false).await
    }

    /// The same, perhaps with a roster for operators only.
    async fn of(behaviour: Behaviour, admins: bool) -> Self {
        let names = ["films/a.mp4", "films/b.mp4", "films/old/c.mp4", "films/moov-last.mp4", "odd/[x].mp4"];
        let titles = names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), film(at as u64, at as u8)));
        Self::holding(titles.collect(), behaviour, admins).await
    }

    /// The same with these titles.
    pub(super) async fn holding(titles: HashMap<String, Vec<u8>>, behaviour: Behaviour, admins: bool) -> Self {
        let titles: Titles = Arc::new(titles);
        let node = TestNode::start("n1", &titles, behaviour);
        let running = TestMaster::start_for(&titles, vec![TestSeat::from(&node)], true, admins).await;
        let folder = tempfile::tempdir().expect("temp");
        std::fs::write(folder.path().join("ca.pem"), &running.authority.pem).expect("writes");
        Self { folder, running, titles, node }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("usher://{}/{path}", self.running.address)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn has(&self, name: &str, title: &str) -> bool {
        std::fs::read(self.folder.path().join(name)).is_ok_and(|bytes| bytes == self.titles[title])
    }

    pub(super) async fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let ca = self.path("ca.pem");
        let words = [&["usher"], words, &["--ca", &ca, "--timeout", "5s"]].concat();
        match TestCommand::try_parse_from(words) {
            Ok(TestCommand::Fetch(args)) => args.run(|| mpsc::channel(1).1).await,
            Ok(TestCommand::Play(args)) => args.run(|| mpsc::channel(1).1).await,
            Ok(TestCommand::Ls(args)) => args.run().await,
            Ok(TestCommand::Locate(args)) => args.run().await,
            Ok(TestCommand::Nodes(args)) => args.run(|| mpsc::channel(1).1).await,
            Ok(TestCommand::Explain(args)) => args.run().await,
            Err(error) => Err(Failure { code: Code::Usage, message: error.to_string() }),
        }
    }

    pub(super) async fn fetch(&self, paths: &[&str], options: &[&str]) -> Result<(), Code> {
        let urls: Vec<String> = paths.iter().map(|path| self.url(path)).collect();
        let words = ["fetch", "--progress", "none"].into_iter().chain(urls.iter().map(String::as_str));
        let words: Vec<&str> = words.chain(options.iter().copied()).collect();
        self.run(&words).await.map_err(|failure| failure.code)
    }
}

/// [`media`] in an MP4 file whose index is its end, as far as there is room.
fn film(groups: u64, seed: u8) -> Vec<u8> {
    let mut data = media(groups, seed);
    let (ftyp, moov) = (samples::boxed(b"ftyp", &[b"isom", &[0; 4]]), samples::moov(1000, false));
    data[..ftyp.len()].copy_from_slice(&ftyp);
    let end = data.len().saturating_sub(moov.len());
    if let Some(len) = u32::try_from(end).ok().and_then(|end| end.checked_sub(16)).filter(|len| *len >= 8) {
        data[16..20].copy_from_slice(&len.to_be_bytes());
        data[20..24].copy_from_slice(b"mdat");
        data[end..].copy_from_slice(&moov);
    }
    data
}

#[tokio::test]
async fn a_fetch_overwrites_only_with_force() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let out = fixture.path("out.mp4");
    assert_eq!(fixture.fetch(&["films/b.mp4"], &["-o", &out]).await, Ok(()));
    assert!(fixture.has("out.mp4", "films/b.mp4"));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-o", &out]).await, Err(Code::Exists));
    assert!(fixture.has("out.mp4", "films/b.mp4"));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-o", &out, "--force"]).await, Ok(()));
    assert!(fixture.has("out.mp4", "films/a.mp4"));
    let id = content(&fixture.titles["films/old/c.mp4"]);
    assert_eq!(fixture.fetch(&[&id], &["-o", &fixture.path(""), "--from-id", "--limit-rate", "1gbit"]).await, Ok(()));
    assert!(fixture.has("c.mp4", "films/old/c.mp4"), "a content is named after its title");
    assert_eq!(fixture.fetch(&["films/b.mp4"], &["-o", &fixture.path("r"), "--range", "5-9"]).await, Ok(()));
    let part = std::fs::read(fixture.path("r")).expect("fetched");
    assert_eq!(part, fixture.titles["films/b.mp4"][5..10]);
}

#[tokio::test]
async fn a_brokered_fetch_has_the_master_prepare_its_session() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let mode = || fixture.running.asked.lock().expect("not poisoned").last().map(|(request, _)| request.mode());
    assert_eq!(fixture.fetch(&["films/b.mp4"], &["-o", &fixture.path("b"), "--brokered"]).await, Ok(()));
    assert!(fixture.has("b", "films/b.mp4"));
    assert_eq!(mode(), Some(usher_proto::pb::v1::Mode::Brokered));
    assert_eq!(fixture.fetch(&["films/b.mp4"], &["-o", &fixture.path("c")]).await, Ok(()));
    assert_eq!(mode(), Some(usher_proto::pb::v1::Mode::Redirect));
}

#[tokio::test]
async fn an_existing_identical_file_is_a_success() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let all = fixture.path("all/");
    assert_eq!(fixture.fetch(&["films/*"], &["-o", &all]).await, Ok(()));
    let sessions = fixture.node.starts().len();
    std::fs::remove_file(fixture.path("all/films/a.mp4")).expect("removes");
    assert_eq!(fixture.fetch(&["films/*"], &["-o", &all, "--json"]).await, Ok(()));
    assert!(fixture.has("all/films/a.mp4", "films/a.mp4"));
    assert_eq!(fixture.node.starts().len(), sessions + 1, "only what was missing is fetched");
    let mut other = fixture.titles["films/a.mp4"].clone();
    other[5] ^= 1;
    std::fs::write(fixture.path("all/films/a.mp4"), &other).expect("writes");
    assert_eq!(fixture.fetch(&["films/*"], &["-o", &all]).await, Err(Code::Exists), "same size, other bytes");
    let b = fixture.path("all/films/b.mp4");
    assert_eq!(fixture.fetch(&["films/b.mp4"], &["-o", &b, "--range", "5-9"]).await, Err(Code::Exists));
}

#[tokio::test]
async fn a_fifo_is_written_through_and_stays() {
    use std::os::unix::fs::FileTypeExt as _;
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let fifo = fixture.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("makes");
    for options in [&["-o", &fifo][..], &["-o", &fifo, "--force"]] {
        let path = fifo.clone();
        let reader = tokio::task::spawn_blocking(move || std::fs::read(path));
        assert_eq!(fixture.fetch(&["films/b.mp4"], options).await, Ok(()));
        assert!(reader.await.expect("reads").is_ok_and(|bytes| bytes == fixture.titles["films/b.mp4"]));
        assert!(std::fs::symlink_metadata(&fifo).is_ok_and(|meta| meta.file_type().is_fifo()));
        assert!(!std::path::Path::new(&format!("{fifo}.part")).exists());
    }
}

#[tokio::test]
async fn fetch_patterns_over_one_connection() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let all = fixture.path("all/");
    assert_eq!(fixture.fetch(&["films/**", "odd/[x].mp4"], &["-o", &all, "--json"]).await, Ok(()));
    for title in ["films/a.mp4", "films/b.mp4", "films/old/c.mp4", "films/moov-last.mp4"] {
        assert!(fixture.has(&format!("all/{title}"), title), "{title} keeps its folders");
    }
    assert!(fixture.has("all/[x].mp4", "odd/[x].mp4"), "a title that looks like a pattern is itself");
    assert_eq!(fixture.node.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    let one = fixture.path("one/");
    assert_eq!(fixture.fetch(&["films/*"], &["-o", &one, "--parallel", "1"]).await, Ok(()));
    assert!(
        fixture.has("one/films/a.mp4", "films/a.mp4") && !std::path::Path::new(&fixture.path("one/films/old")).exists()
    );
}

#[tokio::test]
async fn invalid_fetches_fail_with_their_code() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let folder = fixture.path("x");
    assert_eq!(fixture.fetch(&["films/none-*"], &["-o", &folder]).await, Err(Code::NotFound));
    assert_eq!(fixture.fetch(&["films/*"], &["-o", &folder]).await, Err(Code::Usage), "no folder");
    assert_eq!(fixture.fetch(&["films/none.mp4"], &["-o", &folder]).await, Err(Code::NotFound));
    assert_eq!(fixture.fetch(&["films/a.mp4", "films/a.mp4"], &["-o", &folder]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["../a.mp4"], &[]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["a%00"], &[]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["--range", "9-5"]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["--limit-rate", "fast"]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["--parallel", "0"]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["--parallel", "101"]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-o", "-", "--json"]).await, Err(Code::Usage));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-o", &folder, "--range", "900000-"]).await, Err(Code::BadRange));
    assert!(!std::path::Path::new(&folder).exists(), "no file is left behind");
    // One of several fails: the others are fetched, and its code is the exit code.
    let both = ["films/a.mp4", "films/none.mp4"];
    assert_eq!(fixture.fetch(&both, &["-o", &fixture.path("y/")]).await, Err(Code::NotFound));
    assert!(fixture.has("y/a.mp4", "films/a.mp4"));
    let unwritable = "/proc/nowhere/a.mp4";
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-o", unwritable]).await, Err(Code::Disk));
}

#[tokio::test]
async fn a_second_fetch_resumes_where_the_first_stopped() {
    let fixture = CommandFixture::new(Behaviour::Corrupt(2)).await;
    let out = fixture.path("c.mp4");
    assert_eq!(fixture.fetch(&["films/old/c.mp4"], &["-o", &out]).await, Err(Code::VerificationFailed));
    assert_eq!(std::fs::metadata(format!("{out}.part")).map(|meta| meta.len()).ok(), Some(2 * GROUP));
    assert!(!std::path::Path::new(&out).exists());
    let healed = TestNode::start("healed", &fixture.titles, Behaviour::Honest);
    let running = TestMaster::start(&fixture.titles, vec![TestSeat::from(&healed)], true).await;
    std::fs::write(fixture.path("ca.pem"), &running.authority.pem).expect("writes");
    let fixture = CommandFixture { running, ..fixture };
    assert_eq!(fixture.fetch(&["films/old/c.mp4"], &["-o", &out]).await, Ok(()));
    assert!(fixture.has("c.mp4", "films/old/c.mp4"));
    assert_eq!(healed.starts(), [2 * GROUP]);
    assert!(!std::path::Path::new(&format!("{out}.part")).exists());
    assert!(!std::path::Path::new(&format!("{out}.part.state")).exists());
}

#[tokio::test]
async fn play_writes_to_a_player() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let player = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = fixture.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        path
    };
    let heard = fixture.path("heard");
    let url = fixture.url("films/b.mp4");
    let play = async |url: &str, player: &str, args: &str| {
        fixture.run(&["play", url, "--player", player, "--player-args", args]).await.map_err(|failure| failure.code)
    };
    // `-` follows the user's own arguments.
    let all = player("all", r#"[ "$2" = - ] && exec cat > "$1""#);
    assert_eq!(play(&url, &all, &heard).await, Ok(()));
    assert!(fixture.has("heard", "films/b.mp4"));
    let quits = player("quits", "exit 0");
    assert_eq!(play(&url, &quits, "-x").await, Ok(()), "quitting early is a success");
    let breaks = player("breaks", "exit 3");
    assert_eq!(play(&url, &breaks, "-x").await, Err(Code::Internal));
    // Index at the end: the player receives a file.
    let file = player("file", r#"exec cp "$2" "$1""#);
    assert_eq!(play(&fixture.url("films/moov-last.mp4"), &file, &heard).await, Ok(()));
    assert!(fixture.has("heard", "films/moov-last.mp4"));
    assert_eq!(play(&fixture.url("none"), &all, &heard).await, Err(Code::NotFound));
    assert_eq!(play(&url, "/nonexistent", "-x").await, Err(Code::Usage));
}

#[tokio::test]
async fn listings_reach_the_master() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let url = fixture.url("");
    let code = |result: Result<(), Failure>| result.map_err(|failure| failure.code);
    assert_eq!(code(fixture.run(&["ls", &url, "-l"]).await), Ok(()));
    assert_eq!(code(fixture.run(&["ls", &fixture.url("films/*"), "--json"]).await), Ok(()));
    assert_eq!(code(fixture.run(&["locate", &fixture.url("films/a.mp4")]).await), Ok(()));
    assert_eq!(code(fixture.run(&["locate", "films/a.mp4", "--master", &url, "--json"]).await), Ok(()));
    assert_eq!(code(fixture.run(&["locate", &fixture.url("none")]).await), Err(Code::NotFound));
    assert_eq!(code(fixture.run(&["locate", "../x", "--master", &url]).await), Err(Code::Usage));
    assert_eq!(code(fixture.run(&["nodes", &url, "--json"]).await), Ok(()));
    assert_eq!(code(fixture.run(&["nodes", &url, "n9"]).await), Err(Code::NotFound));
    assert_eq!(code(fixture.run(&["nodes", "a", "b"]).await), Err(Code::Usage));
    let client = client(&fixture.running, Duration::from_secs(5));
    let titles = client.list("films/", usize::MAX).await.expect("lists");
    assert_eq!(titles.len(), 4, "over all pages");
}

#[tokio::test]
async fn an_explanation_is_asked_for_with_the_fields_of_the_request() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let explain = async |words: &[&str]| {
        let words = [&["explain"], words].concat();
        fixture.run(&words).await.map_err(|failure| failure.code)
    };
    let asked = || fixture.running.explained.lock().expect("not poisoned").pop().and_then(|request| request.about);
    let (url, master) = (fixture.url("films/a.mp4"), fixture.url(""));

    assert_eq!(explain(&[&url]).await, Ok(()));
    let Some(About::Request(request)) = asked() else { panic!("no request") };
    assert_eq!(request.what, Some(v1::resolve_request::What::Title("films/a.mp4".into())));
    assert_eq!((request.purpose, request.rate_bps), (v1::Purpose::Play.into(), 0));

    let id = content(&fixture.titles["films/a.mp4"]);
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
async fn the_outcome_of_a_fetch_has_the_masters_request_id() {
    let fixture = CommandFixture::new(Behaviour::Honest).await;
    let client = client(&fixture.running, Duration::from_secs(5));
    let title = Title::parse("films/a.mp4").expect("valid");
    let outcome = client.fetch_to(&title, &mut PipeSink::new(Vec::new()), &|_| ()).await.expect("fetched");
    let heard = fixture.running.asked.lock().expect("not poisoned").last().map(|(_, id)| id.clone());
    assert_eq!((Some(outcome.request_id.clone()), client.request_id()), (heard, outcome.request_id.as_str()));
    assert_eq!(fixture.fetch(&["films/a.mp4"], &["-v", "-o", &fixture.path("a.mp4")]).await, Ok(()));
}

#[tokio::test]
async fn a_roster_for_operators_needs_their_certificate() {
    use usher_certs::{Identity, Role};
    let fixture = CommandFixture::of(Behaviour::Honest, true).await;
    let issue = |role: Role, file: &str| {
        let identity = Identity::new(role, "someone").expect("a name");
        let issued = fixture.running.issuer.issue(&identity, &[], std::time::SystemTime::now()).expect("signs");
        std::fs::write(fixture.path(&format!("{file}.pem")), issued.cert_pem).expect("writes");
        std::fs::write(fixture.path(&format!("{file}.key")), issued.key_pem.as_str()).expect("writes");
    };
    issue(Role::Admin, "admin");
    issue(Role::Node, "node");
    let url = fixture.url("");
    let title = fixture.url("films/a.mp4");
    let path = |name: &str| fixture.path(name);
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
            match (fixture.run(&words).await, expected) {
                (Ok(()), Ok(())) => {}
                (Err(failure), Err((code, part))) if failure.code == code => {
                    assert!(failure.message.contains(part), "{cert}, {key}: {failure}");
                }
                (got, expected) => panic!("{what:?} with {cert}, {key}: {got:?}, not {expected:?}"),
            }
        }
    }
    for what in [["nodes", &url], ["explain", &title]] {
        let failure = fixture.run(&what).await.expect_err("refused");
        assert_eq!(failure.code, Code::Unauthenticated);
        assert!(failure.message.contains("--cert FILE --key FILE"), "{failure}");
    }
    let half = fixture.run(&["nodes", &url, "--cert", &path("admin.pem")]).await;
    assert_eq!(half.map_err(|failure| failure.code), Err(Code::Usage));
}
