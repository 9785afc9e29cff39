//! The command line as a user types it.

use std::fs;

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Runs a command: standard output, standard error and the result.
fn usher_certs(dir: &Path, words: &[&str]) -> (String, String, anyhow::Result<()>) {
    let dir = dir.to_str().unwrap();
    let line = Line::try_parse_from(["certs"].iter().chain(words).copied().chain(["--dir", dir])).unwrap();
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let end = execute(line.args, &mut out, &mut notes);
    (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap(), end)
}

#[test]
fn a_cluster_from_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("certs");
    let (out, notes, end) = usher_certs(&dir, &["init", "--cluster", "films"]);
    end.unwrap();
    assert_eq!(out, format!("{0}/ca.pem\n{0}/ca.key\n", dir.display()));
    assert!(notes.contains("cluster films") && !notes.contains("warning"), "{notes}");

    usher_certs(&dir, &["issue", "master", "--san", "m.example", "192.0.2.1", "--san", "b.example,c.example"])
        .2
        .unwrap();
    usher_certs(&dir, &["issue", "node", "n-1", "--days", "1"]).2.unwrap();
    let (out, _, end) = usher_certs(&dir, &["issue", "admin", "ann", "--out", temp.path().join("a").to_str().unwrap()]);
    end.unwrap();
    assert_eq!(out.lines().count(), 3);
    assert!(out.lines().all(|path| Path::new(path).is_file()), "{out}");

    let (out, _, end) = usher_certs(&dir, &["issue", "publisher", "news"]);
    end.unwrap();
    let dir_name = dir.display();
    assert_eq!(out, format!("{dir_name}/publisher-news.pem\n{dir_name}/publisher-news.key\n{dir_name}/ca.pem\n"));

    let (out, notes, end) = usher_certs(&dir, &["show"]);
    end.unwrap();
    assert_eq!(notes, "");
    for part in [
        "authority    films",
        "master       master",
        "node         n-1",
        "publisher    news",
        "m.example",
        "expires in 1 day\n",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(out.contains("the ca.pem beside it") && !out.contains("NOT") && !out.contains("PRIVATE"), "{out}");

    let (out, _, end) = usher_certs(&dir, &["show", "--json"]);
    end.unwrap();
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(
        all.iter().map(|one| one["role"].as_str().unwrap()).collect::<Vec<_>>(),
        ["authority", "master", "node", "publisher"]
    );
    let sans: Vec<_> = all[1]["sans"].as_array().unwrap().iter().map(|san| san.as_str().unwrap()).collect();
    for san in ["m.example", "192.0.2.1", "b.example", "c.example", "localhost"] {
        assert!(sans.contains(&san), "{san} in {sans:?}");
    }
    for one in &all {
        assert_eq!((&one["issued_by_ca"], &one["expired"]), (&Value::Bool(true), &Value::Bool(false)));
        assert_eq!(one["sha256"].as_str().unwrap().len(), 64);
    }
}

#[test]
fn replacing_the_authority_warns_and_shows() {
    let temp = tempfile::tempdir().unwrap();
    usher_certs(temp.path(), &["init"]).2.unwrap();
    usher_certs(temp.path(), &["issue", "node", "n"]).2.unwrap();
    assert!(usher_certs(temp.path(), &["init"]).2.unwrap_err().is::<files::Exists>());
    let (_, notes, end) = usher_certs(temp.path(), &["init", "--force"]);
    end.unwrap();
    assert!(notes.contains("warning") && notes.contains("certificates that it issued are invalid"), "{notes}");
    let (out, _, end) = usher_certs(temp.path(), &["show"]);
    end.unwrap();
    assert!(out.contains("NOT the ca.pem beside it"), "{out}");
}

#[test]
fn show_goes_on_after_a_broken_file() {
    let temp = tempfile::tempdir().unwrap();
    usher_certs(temp.path(), &["init"]).2.unwrap();
    fs::write(temp.path().join("broken.pem"), "junk").unwrap();
    // A public key beside the certificates is none of them.
    fs::write(temp.path().join("token.pem"), "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n").unwrap();
    let (out, notes, end) = usher_certs(temp.path(), &["show"]);
    assert!(end.unwrap_err().to_string().contains("1 of 2"));
    assert!(out.contains("ca.pem") && notes.contains("broken.pem"), "{out}{notes}");
    // A key is no certificate, and its text stays where it is.
    let key = temp.path().join("ca.key");
    let (out, notes, end) = usher_certs(temp.path(), &["show", key.to_str().unwrap()]);
    assert!(end.is_err() && out.is_empty() && notes.contains("not a certificate in PEM"), "{out}{notes}");
    let empty = temp.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let (.., end) = usher_certs(&empty, &["show"]);
    assert!(end.unwrap_err().to_string().contains("usher certs init"));
}

#[test]
fn wrong_words_are_refused_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    for words in [
        &["issue", "node"][..],
        &["issue", "master", "--san", "https://x"],
        &["issue", "node", "n", "--days", "0"],
        &["issue", "node", "n", "--days", "3651"],
        &["issue", "viewer", "v"],
        &["issue", "node", "../evil"],
        &["issue", "publisher"],
        &["issue", "publisher", "live/news"],
    ] {
        assert!(Line::try_parse_from(["certs"].iter().chain(words)).is_err(), "{words:?}");
    }
    let evil = Line::try_parse_from(["certs", "issue", "node", "../evil"]).unwrap_err();
    assert!(evil.to_string().contains("1 to 63"), "{evil}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}
