//! The view of clients and operators: listings, history, watching, reflection, health; and robustness against garbage.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb;
use usher_certs::Role;
use usher_master::{ClusterAccess, Config, MetricsAt, start};
use usher_proto::pb::v1::{self, attach_request::Body, cluster_client::ClusterClient};

use crate::harness::{Master, config, copy, eventually, pem, presence, request, within};

#[tokio::test]
async fn titles_are_listed_in_pages_and_located() {
    let master = Master::start().await;
    let names: Vec<String> = (0..600).map(|i| format!("f/{i:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _one = master.node("node-1", &names).await;
    let two = master.node("node-2", &["a", "f/0001"]).await;
    let mut catalog = master.catalog().await;
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTitlesRequest { prefix: "f/".into(), page_size: 250, page_token };
        let page = catalog.list_titles(request).await.expect("listed").into_inner();
        assert!(page.titles.len() == 250 || page.next_page_token.is_empty());
        listed.extend(page.titles);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(listed.iter().map(|title| title.title.as_str()).eq(names.iter().copied()));
    assert_eq!(listed[1].nodes, ["node-1", "node-2"]);
    let wrong = v1::ListTitlesRequest { page_token: "zz".into(), ..Default::default() };
    assert_eq!(catalog.list_titles(wrong).await.expect_err("wrong").code(), Code::InvalidArgument);

    // Another content under one of the names.
    let other = v1::CatalogCopy { content_id: vec![1; 32], modified_ms: 5, volume: 1, ..copy("f/0002") };
    two.send(Body::Catalog(v1::CatalogPage { complete: true, copies: vec![other], ..Default::default() })).await;
    let located = eventually(async || {
        let request = v1::LocateRequest { what: Some(v1::locate_request::What::Title("f/0002".into())) };
        let located = catalog.locate(request).await.expect("located").into_inner();
        (located.versions.len() == 2).then_some(located)
    })
    .await;
    let [first, second] = located.versions.as_slice() else { panic!("{located:?}") };
    let nodes = |version: &v1::Version| version.title.as_ref().map(|title| (title.conflict, title.nodes.clone()));
    assert_eq!(nodes(first), Some((true, vec!["node-1".to_owned()])), "it was there first");
    assert_eq!(nodes(second), Some((true, vec!["node-2".to_owned()])), "though it is newer");
    assert_eq!((second.copies[0].volume, second.copies[0].state()), (1, v1::NodeState::Serving));

    // An operator decides otherwise, also for the time after a restart.
    let viewer = master.cluster().await.list_conflicts(v1::ListConflictsRequest {}).await;
    assert_eq!(viewer.expect_err("not for viewers").code(), Code::Unauthenticated);
    let mut operator = ClusterClient::new(master.dial_as(Role::Admin, "boss").await);
    let conflicts = operator.list_conflicts(v1::ListConflictsRequest {}).await.expect("listed").into_inner();
    assert!(!conflicts.more && conflicts.conflicts.len() == 1, "{conflicts:?}");
    assert_eq!(conflicts.conflicts[0].title, "f/0002");
    assert_eq!(conflicts.conflicts[0].versions, located.versions);
    let decide = |content: u8| v1::ResolveConflictRequest {
        title: "f/0002".into(),
        content_id: format!("{content:02x}").repeat(32),
    };
    let unknown = operator.resolve_conflict(decide(9)).await.expect_err("no such content");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    operator.resolve_conflict(decide(1)).await.expect("decided");
    let request = v1::LocateRequest { what: Some(v1::locate_request::What::Title("f/0002".into())) };
    let located = catalog.locate(request).await.expect("located").into_inner();
    assert_eq!(nodes(&located.versions[0]), Some((true, vec!["node-2".to_owned()])));
    let stored = std::fs::read_to_string(master.dir.path().join("state/decided-contents")).expect("stored");
    assert_eq!(stored, format!("{} f/0002\n", "01".repeat(32)));
    let none = v1::LocateRequest { what: Some(v1::locate_request::What::ContentId("00".repeat(32))) };
    assert_eq!(catalog.locate(none).await.expect_err("none").code(), Code::NotFound);
}

#[tokio::test]
async fn watchers_see_the_roster_and_each_change() {
    let master = Master::start().await;
    let _first = master.node("node-1", &["a"]).await;
    let mut cluster = master.cluster().await;
    let mut watch = cluster.watch(v1::WatchRequest {}).await.expect("watching").into_inner();
    let second = master.node("node-2", &[]).await;
    second.send(Body::Presence(presence(true))).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let change = within(watch.message()).await.expect("open").expect("a change");
        seen.push(format!("{} {}", change.node.unwrap_or_default().name, change.change));
    }
    drop(second);
    let gone = within(watch.message()).await.expect("open").expect("a change");
    assert_eq!(seen, ["node-1 serving", "node-2 attached", "node-2 draining"]);
    assert_eq!((gone.change.as_str(), gone.node.unwrap_or_default().state()), ("gone", v1::NodeState::Gone));

    let known = cluster.get_node(v1::GetNodeRequest { name: "node-1".into() }).await.expect("known").into_inner();
    let history = known.history.expect("set");
    assert_eq!((history.samples.len(), known.node.expect("set").capacity_bps), (1, 100_000_000));
    for (name, code) in [("node-9", Code::NotFound), ("NO", Code::InvalidArgument)] {
        let status = cluster.get_node(v1::GetNodeRequest { name: name.into() }).await.expect_err(name);
        assert_eq!(status.code(), code);
    }
}

#[tokio::test]
async fn the_cluster_service_can_ask_for_an_admin() {
    let master = Master::with(|config| config.cluster_access = ClusterAccess::Admin).await;
    let none = master.cluster().await.list_nodes(v1::ListNodesRequest {}).await.expect_err("closed");
    assert_eq!(none.code(), Code::Unauthenticated);
    let mut node = ClusterClient::new(master.dial_as(Role::Node, "n").await);
    assert_eq!(node.watch(v1::WatchRequest {}).await.expect_err("closed").code(), Code::PermissionDenied);
    let mut admin = ClusterClient::new(master.dial_as(Role::Admin, "ann").await);
    assert!(admin.list_nodes(v1::ListNodesRequest {}).await.is_ok());
}

/// Both versions of the reflection service have the same messages in their own packages.
macro_rules! services {
    ($master:expr, $version:ident) => {{
        use pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
        let requests = [
            request(MessageRequest::ListServices(String::new())),
            request(MessageRequest::FileContainingSymbol("usher.v1.ResolveRequest".into())),
        ];
        let mut client = ServerReflectionClient::new($master.viewer().await);
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.expect("reflected");
        let mut answers = answers.into_inner();
        let mut next =
            async || within(answers.message()).await.expect("open").and_then(|answer| answer.message_response);
        let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
        let Some(MessageResponse::FileDescriptorResponse(_)) = next().await else { panic!("no file") };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    }};
}

#[tokio::test]
async fn reflection_and_health() {
    let master = Master::start().await;
    for services in [services!(master, v1), services!(master, v1alpha)] {
        for name in
            ["usher.v1.Tickets", "usher.v1.Catalog", "usher.v1.Cluster", "usher.v1.Registry", "grpc.health.v1.Health"]
        {
            assert!(services.iter().any(|service| service == name), "{name} is not in {services:?}");
        }
    }
    let mut health = HealthClient::new(master.viewer().await);
    for service in ["", "usher.v1.Tickets", "usher.v1.Registry"] {
        let check = health.check(HealthCheckRequest { service: service.into() }).await.expect("known").into_inner();
        assert_eq!(check.status, 1, "{service} serves");
    }
}

#[tokio::test]
async fn garbage_breaks_nothing() {
    let master = Master::start().await;
    let address = master.running.local_addr();
    let tls_record_of_nothing = [0x16, 3, 1, 0xff, 0xff];
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &tls_record_of_nothing, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("open");
        stream.write_all(garbage).await.expect("sent");
        stream.shutdown().await.expect("closed");
        let mut answer = Vec::new();
        // The master may reset the connection, and must not keep it.
        let _reset = within(stream.read_to_end(&mut answer)).await;
    }
    let nodes = master.cluster().await.list_nodes(v1::ListNodesRequest {}).await;
    assert!(nodes.is_ok());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let master = Master::start().await;
    let listen = master.running.local_addr();
    let error = start(Config { listen, ..config(master.dir.path()) }, pem(master.dir.path(), Role::Master, "master"))
        .await
        .err()
        .expect("in use");
    let text = format!("{error:#}");
    assert!(text.contains(&listen.to_string()) && text.contains("--listen"), "{text}");
}

#[tokio::test]
async fn metrics_are_scraped() {
    let master = Master::start().await;
    let _node = master.node("node-1", &["a", "b"]).await;
    let mut tickets = master.tickets().await;
    tickets.resolve(request("a")).await.expect("resolved");
    tickets.resolve(request("z")).await.expect_err("unknown");
    let (head, text) = master.http("/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    for line in [
        "usher_master_decisions_total{outcome=\"only\",reason=\"\"} 1",
        "usher_master_decisions_total{outcome=\"refused\",reason=\"NOT_FOUND\"} 1",
        "usher_master_decision_seconds_count 2",
        "usher_master_queue_wait_seconds_count{queue=\"decisions\"} 2",
        "usher_master_requests_running{queue=\"decisions\"} 0",
        "usher_master_reports_total{result=\"taken\"} 1",
        "usher_master_load_queue_length 0",
        "usher_master_ledger_sessions 1",
        "usher_master_ledger_promised_bits_per_second 8000000",
        "usher_master_capacity_bits_per_second 100000000",
        "usher_master_nodes{state=\"serving\"} 1",
        "usher_master_nodes{state=\"gone\"} 0",
        "usher_master_catalog_titles 2",
        "usher_master_catalog_copies 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
    for path in ["/livez", "/readyz"] {
        let (head, body) = master.http(path).await;
        assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{head} {body}");
    }
    assert!(master.http("/").await.0.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_usual_address_of_metrics_may_be_in_use() {
    let master = Master::start().await;
    let taken = master.running.metrics_addr().expect("it listens");
    let second = Master::with(|config| config.metrics = MetricsAt::Usual(taken)).await;
    assert_eq!(second.running.metrics_addr(), None);
    assert!(second.cluster().await.list_nodes(v1::ListNodesRequest {}).await.is_ok());
    let config = Config { metrics: MetricsAt::Given(taken), ..config(master.dir.path()) };
    let text =
        format!("{:#}", start(config, pem(master.dir.path(), Role::Master, "master")).await.err().expect("in use"));
    assert!(text.contains(&taken.to_string()) && text.contains("--metrics"), "{text}");
}
