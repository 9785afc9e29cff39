//! `usher explain`: the reasons of each choice, as text, as JSON and with grpcurl.

use crate::{cluster::Cluster, grpc::call};

#[test]
fn explain_lists_each_holder_with_level_margin_and_verdict() {
    let cluster = Cluster::figure_4();
    let text = cluster.run(&["explain", "B.mp4"]).expect(0).out;
    assert!(text.contains("B.mp4") && text.contains("farthest from full"), "{text}");
    for word in ["NODE", "LEVEL", "MARGIN", "VERDICT", "node-1", "node-2", "node-3"] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    assert_eq!((text.matches("chosen").count(), text.matches("alternate").count()), (1, 2), "{text}");

    let excluded = cluster.run(&["explain", "--exclude", "node-1,node-3", &cluster.url("B.mp4")]).expect(0).out;
    let line = |node: &str| excluded.lines().find(|line| line.starts_with(&format!("{node}  "))).unwrap_or_default();
    assert!(line("node-2").contains("chosen") && line("node-1").contains("excluded"), "{excluded}");

    let told = cluster.run(&["explain", "--json", "E.mp4"]).expect(0).json();
    let considered = told["considered"].as_array().expect("a list");
    assert_eq!(considered.len(), 2, "{told}");
    assert!(considered.iter().all(|one| one["level_bps"].is_u64() && one["margin_milli"].is_i64()), "{told}");
    assert_eq!(considered[0]["verdict"], "chosen");
    cluster.run(&["explain", "nope.mp4"]).expect(3);
}

#[test]
fn a_fetch_prints_the_request_id_for_explain() {
    let cluster = Cluster::figure_4();
    let err = cluster.run(&["fetch", "-v", &cluster.url("J.mp4")]).expect(0).err;
    let id = err.lines().find_map(|line| line.strip_prefix("request ")?.split(' ').next()).expect("a request id");
    let text = cluster.run(&["explain", "--request", id]).expect(0).out;
    assert!(text.contains("J.mp4 to fetch") && text.contains("node-3: the only holder"), "{text}");
    let told = cluster.run(&["explain", "--request", id, "--json"]).expect(0).json();
    assert_eq!((&told["request_id"], &told["what"]), (&id.into(), &"J.mp4".into()));
    assert_eq!(told["considered"][0]["node"], "node-3");
    assert!(told["decided_at"].is_string(), "{told}");

    let unknown = cluster.run(&["explain", "--request", "0123456789abcdef0123456789abcdef"]).expect(3);
    assert!(unknown.out.is_empty() && unknown.err.contains("explain TITLE"), "{}", unknown.err);
}

#[test]
fn grpcurl_explains() {
    let cluster = Cluster::figure_4();
    let method = "usher.v1.Cluster/Explain";
    let now = call(&cluster, method, r#"{"request":{"title":"B.mp4"}}"#).expect(0).json();
    assert_eq!(now["considered"].as_array().map(Vec::len), Some(3), "{now}");
    let answer = call(&cluster, "usher.v1.Tickets/Resolve", r#"{"title":"B.mp4","purpose":"PURPOSE_PLAY"}"#);
    let answer = answer.expect(0).json();
    let id = answer["requestId"].as_str().expect("an id");
    let then = call(&cluster, method, &format!(r#"{{"request_id":"{id}"}}"#)).expect(0).json();
    assert_eq!(then["requestId"], id);
    assert_eq!(then["considered"][0]["node"], answer["seats"][0]["node"], "{then}");
    let unknown = call(&cluster, method, r#"{"request_id":"nobody-asked-this"}"#);
    assert!(unknown.code != 0 && unknown.err.contains("NotFound"), "{}", unknown.err);
}
