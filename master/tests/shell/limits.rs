//! Limits of what clients may use: connections, time, hosts of the metrics.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use usher_certs::Role;
use usher_proto::pb::v1::{self, cluster_client::ClusterClient};

use crate::harness::{Master, eventually, within};

#[tokio::test]
async fn a_place_in_use_is_kept_and_an_idle_one_is_given_away() {
    // Two are kept for clients with a certificate, one is for handshakes.
    let master = Master::with(|config| config.max_connections = 8).await;
    let _node = master.node("node-1", &[]).await;
    let mut watchers = Vec::new();
    for _ in 0..5 {
        let mut watcher = master.cluster().await;
        let mut watch = watcher.watch(v1::WatchRequest {}).await.expect("watching").into_inner();
        assert!(within(watch.message()).await.is_ok_and(|change| change.is_some()));
        watchers.push((watcher, watch));
    }
    let list = async || {
        let channel = master.dial(None).await.ok()?;
        ClusterClient::new(channel).list_nodes(v1::ListNodesRequest {}).await.ok()
    };
    assert!(list().await.is_none(), "all places are in use");
    master.counted("usher_master_refused_by_budget_total{resource=\"connections\"} 1").await;
    // Operators have their own.
    let mut admin = ClusterClient::new(master.dial_as(Role::Admin, "ann").await);
    assert!(admin.list_nodes(v1::ListNodesRequest {}).await.is_ok());
    let (mut idle, watch) = watchers.swap_remove(0);
    drop(watch);
    eventually(async || list().await).await;
    assert!(watchers[0].1.message().now_or_never().is_none(), "the others go on");
    eventually(async || idle.list_nodes(v1::ListNodesRequest {}).await.ok()).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed() {
    let master = Master::with(|config| config.idle_timeout = Duration::from_millis(50)).await;
    let mut watcher = master.cluster().await;
    let mut watch = watcher.watch(v1::WatchRequest {}).await.expect("watching").into_inner();
    let mut other = master.cluster().await;
    other.list_nodes(v1::ListNodesRequest {}).await.expect("listed");
    master.counted("usher_master_connections 1").await;
    let _node = master.node("node-1", &[]).await;
    assert!(within(watch.message()).await.is_ok_and(|change| change.is_some()), "a stream is a running call");
    assert!(other.list_nodes(v1::ListNodesRequest {}).await.is_ok(), "the client connects again");
}

#[tokio::test]
async fn a_silent_handshake_ends() {
    let master = Master::start().await;
    let mut silent = TcpStream::connect(master.running.local_addr()).await.expect("open");
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _reset = within(silent.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn metrics_are_for_known_hosts() {
    let master = Master::with(|config| config.metrics_host = vec!["metrics.example.org".into()]).await;
    let address = master.running.metrics_addr().expect("it listens");
    for (host, status) in
        [("127.0.0.1:7441", "200"), ("metrics.example.org", "200"), ("evil.example.org:7441", "421"), ("", "421")]
    {
        let mut stream = TcpStream::connect(address).await.expect("open");
        let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.expect("the connection serves one request");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
}
