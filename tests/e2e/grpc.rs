//! Integrators: a real grpcurl against the master, and the two modes of `Resolve`.

use std::{io::Write as _, net::TcpStream, process::Command};

use usher_kit::{Output, run};

use crate::{
    cluster::{Cluster, FIGURE_4},
    parts::{b3, clip, real_part},
};

fn grpcurl(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(real_part("grpcurl"));
    command.arg("-cacert").arg(cluster.ca()).args(args);
    run(&mut command)
}

/// Calls a method with a JSON request.
pub(crate) fn call(cluster: &Cluster, method: &str, request: &str) -> Output {
    grpcurl(cluster, &["-d", request, &cluster.address, method])
}

#[test]
fn grpcurl_lists_describes_and_calls() {
    let cluster = Cluster::figure_4();
    let services = grpcurl(&cluster, &[&cluster.address, "list"]).expect(0).out;
    for service in
        ["usher.v1.Tickets", "usher.v1.Catalog", "usher.v1.Cluster", "usher.v1.Registry", "grpc.health.v1.Health"]
    {
        assert!(services.contains(service), "{services}");
    }
    let described = grpcurl(&cluster, &[&cluster.address, "describe", "usher.v1.ResolveRequest"]).expect(0).out;
    assert!(described.contains("at most 64"), "the comments are the documentation:\n{described}");

    let titles = call(&cluster, "usher.v1.Catalog/ListTitles", r#"{"prefix":"B"}"#).expect(0).json();
    assert_eq!(titles["titles"][0]["contentId"], b3(clip("B.mp4")));
    let nodes = call(&cluster, "usher.v1.Cluster/ListNodes", "{}").expect(0).json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(3));
    let health = call(&cluster, "grpc.health.v1.Health/Check", "{}").expect(0).json();
    assert_eq!(health["status"], "SERVING");

    let answer = call(&cluster, "usher.v1.Tickets/Resolve", r#"{"title":"B.mp4"}"#).expect(0).json();
    assert_eq!(answer["seats"].as_array().map(Vec::len), Some(3));
    assert!(answer["reason"].as_str().is_some_and(|why| why.contains("farthest from full")), "{answer}");
    let unknown = call(&cluster, "usher.v1.Tickets/Resolve", r#"{"title":"nope.mp4"}"#);
    assert!(
        unknown.code != 0 && unknown.err.contains("NotFound") && unknown.err.contains("nope.mp4"),
        "{}",
        unknown.err
    );
}

#[test]
fn figure_4_resolves_right_for_every_title() {
    let cluster = Cluster::figure_4();
    let all: std::collections::BTreeSet<&str> =
        FIGURE_4.iter().flat_map(|(_, titles)| titles.iter().copied()).collect();
    assert_eq!(all.len(), 9);
    for title in all {
        let holders: Vec<&str> =
            FIGURE_4.iter().filter(|(_, titles)| titles.contains(&title)).map(|(n, _)| *n).collect();
        assert_eq!(cluster.holders(title).expect(title), holders, "{title}");
        let answer = call(&cluster, "usher.v1.Tickets/Resolve", &format!(r#"{{"title":"{title}"}}"#)).expect(0).json();
        let mut seats: Vec<&str> =
            answer["seats"].as_array().expect("seats").iter().filter_map(|seat| seat["node"].as_str()).collect();
        seats.sort_unstable();
        assert_eq!(seats, holders, "{title}");
        assert_eq!(answer["contentId"], b3(clip(title)), "{title}");
    }
}

#[test]
fn brokered_answers_carry_the_set_up_information() {
    let cluster = Cluster::figure_4();
    let request = r#"{"title":"B.mp4","mode":"MODE_BROKERED","purpose":"PURPOSE_PLAY"}"#;
    let answer = call(&cluster, "usher.v1.Tickets/Resolve", request).expect(0).json();
    let setup = &answer["setup"];
    assert_eq!(setup["contentId"], b3(clip("B.mp4")));
    assert_eq!(setup["mediaType"], "video/mp4");
    let codecs: Vec<&str> =
        setup["tracks"].as_array().expect("tracks").iter().filter_map(|t| t["codec"].as_str()).collect();
    assert_eq!(codecs, ["h264", "aac"]);

    let out = cluster.path().join("brokered.mp4");
    let out = out.to_str().expect("UTF-8");
    cluster.run(&["fetch", &cluster.url("B.mp4"), "--brokered", "-o", out]).expect(0);
    assert_eq!(b3(out), b3(clip("B.mp4")));

    let request = r#"{"title":"B.mp4","exclude":["node-1","node-2"]}"#;
    let answer = call(&cluster, "usher.v1.Tickets/Resolve", request).expect(0).json();
    assert_eq!(answer["seats"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["seats"][0]["node"], "node-3");

    let request = r#"{"requests":[{"title":"B.mp4"},{"title":"nope"},{"title":"E.mp4"}]}"#;
    let answer = call(&cluster, "usher.v1.Tickets/ResolveMany", request).expect(0).json();
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0]["ok"]["seats"][0]["node"], results[2]["ok"]["seats"][0]["node"], "one node has both");
    assert_eq!(results[1]["failure"]["reason"], "NOT_FOUND");
}

#[test]
fn invalid_requests_get_an_error_and_the_master_keeps_running() {
    let cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    let long = "x".repeat(10_000);
    let excludes = vec![r#""n""#; 10_000].join(",");
    for request in [
        r#"{"title":"../../etc/passwd"}"#.to_owned(),
        r#"{"title":"a\u0000b"}"#.to_owned(),
        format!(r#"{{"title":"{long}"}}"#),
        r#"{"contentId":"123"}"#.to_owned(),
        r#"{}"#.to_owned(),
        r#"{"title":"A.mp4","range":{"start":"9","end":"3"}}"#.to_owned(),
        format!(r#"{{"title":"A.mp4","exclude":[{excludes}]}}"#),
    ] {
        let said = call(&cluster, "usher.v1.Tickets/Resolve", &request);
        assert!(
            said.code != 0 && said.err.contains("InvalidArgument"),
            "{}: {}",
            &request[..60.min(request.len())],
            said.err
        );
    }
    // Bytes that are no TLS, no HTTP/2, and a registration without a certificate.
    let mut plain = TcpStream::connect(&cluster.address).expect("connects");
    plain.write_all(&[0xff; 4096]).expect("writes");
    let attach = call(&cluster, "usher.v1.Registry/Attach", r#"{"hello":{"node":"node-1"}}"#);
    assert!(attach.err.contains("Unauthenticated") && attach.err.contains("certificate"), "{}", attach.err);

    cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
}
