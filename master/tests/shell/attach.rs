//! Attachment: permission, names, and the effect of an invalid message.

use tonic::Code;
use tonic_types::StatusExt as _;
use usher_certs::{Role, files::init};
use usher_proto::{
    BootId, SessionId,
    pb::v1::{self, attach_request::Body},
};

use crate::harness::{Master, Node, begun, copy, eventually, hello, issued, pem, presence};

#[tokio::test]
async fn a_node_attaches_under_its_certificates_name_only() {
    let master = Master::start().await;
    let one = master.dial_as(Role::Node, "node-1").await;
    let node = Node::attach(one.clone(), hello("node-1", 1, 1)).await.expect("attached");
    let welcome = &node.welcome;
    assert_eq!((welcome.report_interval_ms, welcome.lease_ms, welcome.keys.len()), (1000, 5000, 1));
    assert_eq!(node.keys()[0].kid(), welcome.keys[0].kid);

    let none = master.viewer().await;
    let admin = master.dial_as(Role::Admin, "node-1").await;
    let anonymous = |hello| Node::attach(none.clone(), hello);
    for (status, code, word) in [
        (anonymous(hello("node-1", 1, 2)).await.err(), Code::Unauthenticated, "usher certs issue node"),
        (Node::attach(admin, hello("node-1", 1, 2)).await.err(), Code::PermissionDenied, "admin node-1"),
        (Node::attach(one.clone(), hello("node-2", 1, 2)).await.err(), Code::PermissionDenied, "node-2"),
        (Node::begin(one.clone(), Body::Report(v1::Report::default())).await.err(), Code::InvalidArgument, "Hello"),
        (
            Node::attach(one, v1::Hello { capacity_bps: 0, ..hello("node-1", 1, 2) }).await.err(),
            Code::InvalidArgument,
            "capacity_bps",
        ),
    ] {
        let status = status.expect(word);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
        assert!(status.get_details_error_info().is_some(), "{status}");
    }

    // A certificate of another cluster fails the TLS handshake.
    let other = tempfile::tempdir().expect("a directory");
    init(other.path(), "other", false).expect("an authority");
    let stranger = pem(other.path(), Role::Node, "node-1");
    // With TLS 1.3 the refusal may arrive only with the first call.
    if let Ok(channel) = master.dial(Some(&stranger)).await {
        assert!(Node::attach(channel, hello("node-1", 1, 9)).await.is_err());
    }
}

#[tokio::test]
async fn one_process_has_a_name_at_a_time() {
    let master = Master::start().await;
    let mut first = master.node("node-1", &["a"]).await;
    let channel = master.dial_as(Role::Node, "node-1").await;

    let taken = Node::attach(channel.clone(), hello("node-1", 2, 1)).await.err().expect("taken");
    assert_eq!(taken.code(), Code::AlreadyExists);
    for boot in [1, 2] {
        assert!(taken.message().contains(&BootId(boot).to_string()), "{taken}");
    }
    let older = Node::attach(channel.clone(), hello("node-1", 1, 1)).await.err().expect("older");
    assert_eq!(older.code(), Code::AlreadyExists);

    let second = Node::attach(channel.clone(), hello("node-1", 1, 2)).await.expect("attached");
    assert_eq!(first.next().await.expect_err("replaced").code(), Code::AlreadyExists);
    assert_eq!(second.keys()[0].kid(), first.keys()[0].kid(), "the same process keeps its key");
    let titles = master.catalog().await.list_titles(v1::ListTitlesRequest::default()).await.expect("listed");
    assert_eq!(titles.into_inner().titles.len(), 1, "and its catalog");

    drop(second);
    let third = eventually(async || Node::attach(channel.clone(), hello("node-1", 3, 1)).await.ok()).await;
    assert_ne!(third.keys()[0].kid(), first.keys()[0].kid(), "another process has another key");
}

#[tokio::test]
async fn a_wrong_message_ends_the_channel_and_nothing_else() {
    let wrong = [
        ("title", Body::Catalog(v1::CatalogPage { copies: vec![copy("../etc")], ..Default::default() })),
        ("egress", Body::Report(v1::Report { sequence: 9, egress_bps: u64::MAX, ..Default::default() })),
        ("addresses", Body::Presence(v1::Presence { addresses: vec!["nowhere".into()], ..presence(false) })),
        ("result", Body::Prepared(v1::Prepared { id: 1, result: None })),
        ("hello", Body::Hello(hello("node-1", 1, 2))),
        (
            "too large",
            Body::Prepared(v1::Prepared {
                id: 1,
                result: Some(v1::prepared::Result::Refusal(v1::Refusal {
                    message: "x".repeat(5 << 20),
                    ..Default::default()
                })),
            }),
        ),
    ];
    let master = Master::start().await;
    for (i, (word, body)) in wrong.into_iter().enumerate() {
        let name = format!("node-{i}");
        let mut node = master.node(&name, &["a"]).await;
        node.send(body).await;
        let status = node.next().await.expect_err(word);
        let code = if word == "too large" { Code::OutOfRange } else { Code::InvalidArgument };
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{word}: {status}");
        let request = v1::LocateRequest { what: Some(v1::locate_request::What::Title("a".into())) };
        let located = master.catalog().await.locate(request).await.expect("known").into_inner();
        assert_eq!(located.versions[0].copies.len(), i + 1, "its earlier messages stand");
    }
}

#[tokio::test]
async fn addresses_that_no_node_can_have_are_refused() {
    let master = Master::start().await;
    let one = master.dial_as(Role::Node, "node-1").await;
    let at = |address: &str| v1::Presence { addresses: vec![address.into()], ..presence(false) };
    for (attachment, address) in
        (2..).zip(["169.254.169.254:80", "[fd00:ec2::254]:80", "[fe80::1]:9", "224.0.0.1:9", "255.255.255.255:9"])
    {
        let hello = v1::Hello { presence: Some(at(address)), ..hello("node-1", 1, attachment) };
        let status = Node::attach(one.clone(), hello).await.err().expect(address);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("--advertise"), "{status}");
    }
    // Loopback is good for this node, which runs on the master's machine. A later change is checked as well.
    let mut node = Node::attach(one, hello("node-1", 1, 9)).await.expect("attached");
    node.send(Body::Presence(at("169.254.169.254:80"))).await;
    assert_eq!(node.next().await.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn sessions_that_the_cluster_did_not_issue_are_counted_and_ignored() {
    let master = Master::start().await;
    let node = master.node("node-1", &["a"]).await;
    let begun = |id: u128| begun(&SessionId(id).to_string(), "a");
    let all = (1..=300).map(begun).chain([begun(issued(1).0)]).collect();
    node.sessions(v1::Sessions { restart: true, complete: true, begun: all, ..Default::default() }).await;
    master.counted("usher_master_sessions_invented_total 300").await;
    master.counted("usher_master_ledger_sessions 1").await;
}

#[tokio::test]
async fn shutdown_ends_channels_and_watchers() {
    let master = Master::start().await;
    let mut node = master.node("node-1", &["a"]).await;
    let mut watch = master.cluster().await.watch(v1::WatchRequest {}).await.expect("watching").into_inner();
    assert!(watch.message().await.expect("open").is_some());
    let Master { dir: _dir, running } = master;
    running.shutdown().await;
    assert_eq!(node.next().await.expect_err("ended").code(), Code::Unavailable);
    assert_eq!(watch.message().await.expect_err("ended").code(), Code::Unavailable);
}
