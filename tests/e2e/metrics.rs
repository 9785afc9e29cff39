//! The master's figures over HTTP, as Prometheus and a supervisor read them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use usher_kit::{address_in, eventually};

use crate::{cluster::Cluster, parts::clip};

/// The answer to a GET, its head included.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

#[test]
fn the_master_serves_metrics() {
    let mut cluster = Cluster::with_master(&["--metrics", "127.0.0.1:0"]);
    let at = address_in(&cluster.master.line_with("metrics listener started")).expect("an address").to_string();
    for path in ["/livez", "/readyz"] {
        let answer = get(&at, path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    }
    cluster.add("node-1", "A.mp4", clip("A.mp4"));
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);

    let figures = get(&at, "/metrics");
    assert!(figures.contains("application/openmetrics-text") && figures.trim_end().ends_with("# EOF"), "{figures}");
    for line in [
        "usher_master_catalog_titles 1",
        "usher_master_catalog_copies 1",
        "usher_master_capacity_bits_per_second 1000000000",
        "usher_master_decision_seconds_count 1",
        "usher_master_decisions_total{outcome=",
        "usher_master_nodes{state=\"serving\"} 1",
        "usher_master_reports_total{result=\"taken\"}",
    ] {
        assert!(figures.lines().any(|one| one.starts_with(line)), "{line} is not in {figures}");
    }
    eventually("the session's end is told", || get(&at, "/metrics").contains("usher_master_sessions_ended_total 1"));
    assert!(get(&at, "/metrics").contains("usher_master_sessions_begun_total 1"));
    assert!(!figures.contains("A.mp4"), "no titles in figures");
    assert!(get(&at, "/other").starts_with("HTTP/1.1 404"));
}
