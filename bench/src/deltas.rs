//! The cost of session updates for the master: many attached nodes that each report begun and ended sessions five times a
//! second and report once, and the processor time of the real master's process meanwhile. The nodes are channels of
//! this process; their certificates, messages and TLS are real.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{sync::mpsc, task::JoinSet, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity as Pem};
use usher_certs::{
    Identity, Role,
    files::{issue, read_pem},
};
use usher_kit::{Cluster, Process};
use usher_proto::{
    Bitrate, BootId, Title,
    model::{Begun, Presence, Sessions},
    pb::v1::{self, AttachRequest, attach_request::Body, registry_client::RegistryClient},
    ticket::{ClusterSecret, Purpose, SessionKey},
    units,
};

use crate::cluster::{usage::Meter, usher};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of nodes
    #[arg(long, default_value_t = 300)]
    nodes: u32,
    /// Sessions that begin or end on all of them together, a second
    #[arg(long, default_value_t = 30_000)]
    rate: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Write the figures as JSON to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Time between two messages of a node.
const BATCH: Duration = Duration::from_millis(200);

/// Sessions of one node before the measurement begins.
const RUNNING: u32 = 300;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.nodes > 0 && args.seconds > 0, "at least one node and one second");
    let cluster = Cluster::start(&usher()?, &["--log", "info", "--dial-back", "off"])?;
    let (certs, address) = (cluster.certs(), cluster.address.clone());
    let secret = fs::read(cluster.path().join("master-state/cluster.secret")).context("read the cluster's secret")?;
    let secret = <[u8; 32]>::try_from(secret).ok().context("a secret has 32 bytes")?;
    let key = ClusterSecret::new(secret).session_key();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(measure(args, &certs, &key, &address, &cluster.master))
}

async fn measure(args: &Args, certs: &Path, key: &SessionKey, address: &str, master: &Process) -> anyhow::Result<()> {
    let (ready, mut attached) = mpsc::channel(1);
    let mut nodes = JoinSet::new();
    for i in 0..args.nodes {
        let (certs, key, address, ready) = (certs.to_owned(), key.clone(), address.to_owned(), ready.clone());
        let changes = args.rate / args.nodes / 5 / 2;
        nodes.spawn(async move { node(i, changes.max(1), &certs, &key, &address, ready).await });
    }
    for _ in 0..args.nodes {
        tokio::select! {
            one = attached.recv() => one.context("a node attached")?,
            Some(ended) = nodes.join_next() => ended.context("a node's task")??,
        }
    }
    let meter = Meter::start(&[master.id()])?;
    time::sleep(Duration::from_secs(args.seconds)).await;
    let (used, wall) = (meter.seconds()?, meter.elapsed().as_secs_f64());
    ensure!(nodes.try_join_next().is_none(), "a node was detached while it was measured");
    let busy = used / wall;
    let told = f64::from((args.rate / args.nodes / 10).max(1) * 2 * 5 * args.nodes);
    println!("{} nodes, {told:.0} begun or ended sessions/s, 1 report/s each, over TLS, for {wall:.1} s", args.nodes);
    println!("master: {:.1} % of one core, {:.1} us a change", busy * 100.0, busy / told * 1e6);
    if let Some(path) = &args.json {
        let row = serde_json::json!({"nodes": args.nodes, "changes_per_second": told, "core_busy": busy});
        fs::write(path, format!("{row}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// One node: attaches, reports its sessions, then replaces some of them five times a second for ever.
async fn node(
    i: u32,
    changes: u32,
    certs: &Path,
    key: &SessionKey,
    address: &str,
    ready: mpsc::Sender<()>,
) -> anyhow::Result<()> {
    let name = format!("node-{i}");
    let paths = issue(certs, &Identity::new(Role::Node, &name)?, &[], certs, false)?;
    let pem = read_pem(&paths.cert, &paths.key, &paths.ca)?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&pem.ca))
        .identity(Pem::from_pem(&pem.cert, &pem.key));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    let channel = endpoint.connect().await.context("dial the master")?;
    let (outbox, requests) = mpsc::channel(4);
    let post = |body| outbox.send(AttachRequest { body: Some(body) });
    let presence = Presence {
        drain_left: Duration::ZERO,
        addresses: vec![([127, 0, 0, 1], 1).into()],
        certificates: vec![[0; 32]],
        draining: false,
    };
    post(Body::Hello(v1::Hello {
        node: name,
        boot_id: BootId(u128::from(i) + 1).to_string(),
        capacity_bps: 100_000_000_000,
        presence: Some(presence.to_pb()),
        attachment: 1,
        ..v1::Hello::default()
    }))
    .await?;
    let mut client = RegistryClient::new(channel);
    let mut answers = client.attach(ReceiverStream::new(requests)).await?.into_inner();
    answers.message().await?.context("a Welcome")?;
    post(Body::Catalog(v1::CatalogPage { restart: true, complete: true, ..v1::CatalogPage::default() })).await?;

    let began = Instant::now();
    let uptime = || units::millis(began.elapsed());
    let session = |n: u64| key.issue(u64::from(i) << 40 | n);
    let committed = Bitrate(u64::from(RUNNING) * 4_000_000);
    let begun = |n: u64| {
        let title = Title::parse(&format!("films/{}.mp4", n % 1000)).expect("a title");
        Begun { session: session(n), title, content: None, rate: Bitrate(4_000_000), purpose: Purpose::Play }
    };
    let mut next = u64::from(RUNNING);
    let all = Sessions {
        restart: true,
        complete: true,
        uptime_ms: uptime(),
        committed,
        begun: (0..next).map(begun).collect(),
        ..Sessions::default()
    };
    post(Body::Sessions(all.to_pb())).await?;
    ready.send(()).await?;
    let mut ticks = time::interval(BATCH);
    for tick in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            answer = answers.message() => {
                answer?.context("the master closed the channel")?;
                continue;
            }
        }
        let news = Sessions {
            complete: true,
            uptime_ms: uptime(),
            committed,
            begun: (next..next + u64::from(changes)).map(begun).collect(),
            ended: (next..next + u64::from(changes)).map(|n| session(n - u64::from(RUNNING))).collect(),
            ..Sessions::default()
        };
        next += u64::from(changes);
        post(Body::Sessions(news.to_pb())).await?;
        if tick % 5 == 0 {
            let report = v1::Report {
                sequence: tick + 1,
                uptime_ms: uptime(),
                committed_bps: committed.0,
                egress_bps: committed.0,
                sessions: RUNNING,
                ..v1::Report::default()
            };
            post(Body::Report(report)).await?;
        }
    }
    Ok(())
}
