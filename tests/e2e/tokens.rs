//! Viewers with tokens: of a real OpenID provider, whose keys change while a viewer plays, and of `usher token`.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
};

use usher_kit::{Output, Process, eventually, run};

use crate::{
    cluster::Cluster,
    parts::{b3, clip, real_part, usher},
};

/// oidc-provider-mock under TLS, with an authority of its own.
struct Provider {
    server: Process,
    certs: PathBuf,
    port: u16,
}

impl Provider {
    /// Starts a provider with new keys in `folder`, on a port of its choice.
    fn start(folder: &Path) -> Self {
        let certs = folder.join("provider");
        let dir = ["--dir", certs.to_str().expect("UTF-8")];
        run(usher().args(["certs", "init"]).args(dir)).expect(0);
        run(usher().args(["certs", "issue", "master"]).args(dir)).expect(0);
        let (server, port) = serve(&certs, 0);
        Self { server, certs, port }
    }

    /// Starts it again on the same port: its keys are new.
    fn change_keys(&mut self) {
        self.server.kill().expect("the provider ends");
        self.server = serve(&self.certs, self.port).0;
    }

    fn issuer(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn ca(&self) -> String {
        self.certs.join("ca.pem").to_string_lossy().into_owned()
    }

    /// The ID token of a user with these claims, after a login.
    fn token(&self, subject: &str, usher: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/oidc_login.py");
        let claims = format!(r#"{{"usher":{usher}}}"#);
        let mut login = Command::new(real_part("oidc"));
        login.arg(script).args([self.issuer(), self.ca(), subject.to_owned(), claims]);
        run(&mut login).expect(0).out.trim().to_owned()
    }
}

fn serve(certs: &Path, port: u16) -> (Process, u16) {
    let mut flask = Command::new(real_part("oidc"));
    flask.args(["-m", "flask", "--app", "oidc_provider_mock:app", "run", "--host", "127.0.0.1", "--port"]);
    flask.arg(port.to_string()).arg("--cert").arg(certs.join("master.pem")).arg("--key").arg(certs.join("master.key"));
    let mut server = Process::start(flask.stdout(Stdio::null()));
    let line = server.line_with("Running on");
    (server, usher_kit::address_in(&line).expect("an address").port())
}

/// Runs a client command of a viewer.
fn by(cluster: &Cluster, token: &str, args: &[&str]) -> Output {
    run(cluster.usher(args).env("USHER_TOKEN", token))
}

/// A viewer in the middle of its film.
struct Playing {
    process: Process,
    out: ChildStdout,
    data: Vec<u8>,
}

impl Playing {
    fn start(cluster: &Cluster, token: &str, title: &str) -> Self {
        let url = cluster.url(title);
        let mut play = cluster.usher(&["play", &url, "--player", "-"]);
        let mut process = Process::start(play.env("USHER_TOKEN", token).stdout(Stdio::piped()));
        let mut out = process.child().stdout.take().expect("piped");
        let mut data = vec![0; 1 << 20];
        out.read_exact(&mut data).expect("a part of the film");
        Self { process, out, data }
    }

    /// Reads to the end. Returns the exit code, what was read, and what was said.
    fn rest(mut self) -> (i32, Vec<u8>, String) {
        self.out.read_to_end(&mut self.data).expect("the rest");
        (self.process.wait(), self.data, self.process.seen())
    }
}

/// Waits until a viewer sees these titles.
fn wait_for_titles(cluster: &Cluster, token: &str, expected: &[&str]) {
    eventually("the titles of the token are listed", || {
        let listed = by(cluster, token, &["ls", "--json"]);
        let titles = if listed.code == 0 { listed.json() } else { serde_json::Value::Null };
        let titles: Vec<&str> =
            titles.as_array().into_iter().flatten().filter_map(|title| title["title"].as_str()).collect();
        titles == expected
    });
}

/// Waits until the master has fetched that many key sets.
fn fetched(cluster: &mut Cluster, times: usize) {
    let count = |cluster: &mut Cluster| cluster.master.seen().matches("keys of tokens fetched").count();
    eventually("the master has the keys", || count(cluster) >= times);
}

#[test]
fn tokens_of_an_identity_provider_open_its_titles_also_after_its_keys_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut provider = Provider::start(folder.path());
    let (issuer, ca) = (provider.issuer(), provider.ca());
    let keys = format!("{issuer}/jwks");
    let mut cluster = Cluster::with_master(&[
        "--token-jwks",
        &keys,
        "--token-jwks-ca",
        &ca,
        "--token-jwks-refresh",
        "1s",
        "--token-issuer",
        &issuer,
        "--token-audience",
        "usher-e2e",
        // Renewals end nothing here.
        "--session-lifetime",
        "1h",
    ]);
    cluster.add_film("node-1", "films/film.mp4", 24);
    cluster.add("node-1", "series/B.mp4", clip("B.mp4"));
    cluster.start_node("node-1", &[]);
    fetched(&mut cluster, 1);

    let films = r#"{"prefixes":["films/"]}"#;
    let alice = provider.token("alice", films);
    wait_for_titles(&cluster, &alice, &["films/film.mp4"]);
    let film = b3(cluster.media("node-1").join("films/film.mp4"));
    let file = cluster.path().join("alice.token");
    fs::write(&file, format!("{alice}\n")).expect("written");
    let (file, url) = (file.to_str().expect("UTF-8"), cluster.url("films/film.mp4"));
    cluster.run(&["fetch", &url, "-o", "fetched.mp4", "--token", file]).expect(0);
    assert_eq!(b3(cluster.path().join("fetched.mp4")), film);

    // None, one for other titles, another issuer's.
    let none = cluster.run(&["fetch", &url, "-o", "none.mp4"]).expect(5);
    assert!(none.err.contains("--token"), "{}", none.err);
    let other = by(&cluster, &alice, &["fetch", &cluster.url("series/B.mp4"), "-o", "other.mp4"]).expect(5);
    assert!(other.err.contains("not among the titles"), "{}", other.err);
    let certs = cluster.certs();
    let own = ["--dir", certs.to_str().expect("UTF-8")];
    run(usher().args(["token", "keygen"]).args(own)).expect(0);
    let foreign = run(usher().args(["token", "mint", "--sub", "alice", "--prefix", ""]).args(own)).expect(0).out;
    by(&cluster, &foreign, &["fetch", &url, "-o", "foreign.mp4"]).expect(5);

    // New keys: the viewer that plays notices nothing, its old token opens nothing more, a new one does.
    let playing = Playing::start(&cluster, &alice, "films/film.mp4");
    provider.change_keys();
    fetched(&mut cluster, 2);
    let old = by(&cluster, &alice, &["fetch", &url, "-o", "old.mp4"]).expect(5);
    assert!(old.err.contains("right issuer"), "{}", old.err);
    let (code, data, said) = playing.rest();
    assert_eq!((code, blake3::hash(&data).to_hex().to_string()), (0, film), "{said}");
    let alice = provider.token("alice", films);
    wait_for_titles(&cluster, &alice, &["films/film.mp4"]);

    // Without the provider the last keys stay in force.
    let failed = |cluster: &mut Cluster| cluster.master.seen().matches("keys of tokens not fetched").count();
    let before = failed(&mut cluster);
    provider.server.kill().expect("the provider ends");
    eventually("a fetch of keys fails", || failed(&mut cluster) > before);
    by(&cluster, &alice, &["fetch", &url, "-o", "alone.mp4"]).expect(0);

    // A revocation ends what runs.
    let mut playing = Playing::start(&cluster, &alice, "films/film.mp4");
    let viewers = run(&mut cluster.operate(&["viewers", "--json"])).expect(0).json();
    assert_eq!((viewers[0]["sessions"].as_u64(), viewers.as_array().map(Vec::len)), (Some(1), Some(1)), "{viewers}");
    run(&mut cluster.operate(&["viewers", "revoke", "alice", "--now"])).expect(0);
    playing.out.read_to_end(&mut playing.data).expect("the rest");
    assert!(playing.data.len() < 24 << 20, "{} bytes", playing.data.len());
    assert_eq!(playing.process.wait(), 5);
    playing.process.line_with("DENIED");
    by(&cluster, &alice, &["ls"]).expect(5);

    // Neither subjects nor tokens are in the logs.
    let log = cluster.master.seen();
    assert!(!log.contains("alice") && !log.contains(&alice[..40]), "{log}");
}
