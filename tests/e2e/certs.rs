//! Certificates: made once, private, and no node can pass for another.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tempfile::TempDir;

use usher_kit::{Process, eventually, run};

use crate::{cluster::Cluster, parts::usher};

#[test]
fn keys_are_private_and_never_overwritten() {
    let dir = TempDir::new().expect("a temporary folder");
    let certs = |args: &[&str]| run(usher().arg("certs").args(args).arg("--dir").arg(dir.path()));
    certs(&["init"]).expect(0);
    certs(&["issue", "node", "node-1"]).expect(0);
    certs(&["issue", "admin", "ops"]).expect(0);
    certs(&["issue", "master", "--san", "media.example", "--san", "192.0.2.7"]).expect(0);

    for key in ["ca.key", "node-node-1.key", "admin-ops.key", "master.key"] {
        let mode = fs::metadata(dir.path().join(key)).expect(key).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = fs::read(dir.path().join("ca.key")).expect("a key");
    let again = certs(&["init"]).expect(13);
    assert!(again.err.contains("--force"), "{}", again.err);
    assert_eq!(fs::read(dir.path().join("ca.key")).expect("a key"), before);

    let shown = run(usher().args(["certs", "show"]).arg(dir.path())).expect(0);
    for word in ["node-1", "ops", "media.example", "192.0.2.7", "localhost"] {
        assert!(shown.out.contains(word), "{word} is missing in\n{}", shown.out);
    }
    assert!(!shown.out.contains("PRIVATE"));
    certs(&["issue", "node", "Not A Name"]).expect(2);
}

#[test]
fn a_node_needs_a_certificate_of_this_cluster_in_its_own_name() {
    let mut cluster = Cluster::with(&[("node-1", &["A.mp4"])]);

    // Another cluster's authority.
    let mut stranger = Cluster::empty();
    stranger.address.clone_from(&cluster.address);
    let mut process = Process::start(&mut stranger.node_command("node-9", &[]));
    process.line_with("certificate");

    // This cluster's authority, but another node's certificate.
    let mut command = cluster.node_command("node-2", &[]);
    command.arg("--cert").arg(cluster.certs().join("node-node-1.pem"));
    command.arg("--key").arg(cluster.certs().join("node-node-1.key")).arg("--ca").arg(cluster.ca());
    let mut process = Process::start(&mut command);
    process.line_with("node-1");

    let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
    let names: Vec<&str> = nodes.as_array().expect("a list").iter().filter_map(|n| n["name"].as_str()).collect();
    assert_eq!(names, ["node-1"]);
    assert!(cluster.node("node-1").seen().contains("attached"));
}

#[test]
fn media_certificates_rotate_under_a_running_session() {
    // A life of 4 s: announced after 2, switched after 3, so that a fetch of some 6 s sees at least one rotation.
    let mut cluster = Cluster::empty();
    cluster.add_film("node-1", "film.mp4", 12);
    cluster.start_node("node-1", &["--media-cert-lifetime", "4s"]);
    cluster.settled(1);
    let mut slow = cluster.start(&["fetch", &cluster.url("film.mp4"), "-o", "slow.mp4", "--limit-rate", "16mbit"]);
    let pins = |cluster: &Cluster| {
        let request = r#"{"title":"film.mp4"}"#;
        let said = crate::grpc::call(cluster, "usher.v1.Tickets/Resolve", request).expect(0);
        said.json()["seats"][0]["certificateSha256"].clone()
    };
    let first = pins(&cluster);
    eventually("other certificates are pinned", || {
        let now = pins(&cluster);
        !now.as_array().expect("a list").contains(&first[0])
    });
    // New connections are made under the new certificate, and the old session goes on.
    cluster.run(&["fetch", &cluster.url("film.mp4"), "-o", "new.mp4"]).expect(0);
    assert_eq!(slow.wait(), 0, "{}", slow.seen());
}
