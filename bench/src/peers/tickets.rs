//! Tickets: the master's Resolve beside a bare gRPC server over TLS, which looks nothing up, reserves and signs nothing,
//! and answers the same request with as many bytes. One client loop drives both.

use std::{
    cell::Cell,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use tokio::task::{JoinSet, LocalSet};
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use usher_proto::pb::v1::{
    PublishRequest, PublishResponse, RenewRequest, RenewResponse, ResolveManyRequest, ResolveManyResponse,
    ResolveRequest, ResolveResponse,
    tickets_server::{Tickets, TicketsServer},
};

use super::{
    table::{Figures, Peer, Results, SELF},
    testbed::{Testbed, enter, small},
    viewer,
};
use crate::cluster::{start, usage::Meter};

/// Connections, and calls in flight on each: a few hundred in all, fewer than the master lets wait.
const CONNECTIONS: u64 = 4;
const IN_FLIGHT: u64 = 64;

/// Answers every Resolve with the same bytes.
#[derive(clap::Args)]
pub(crate) struct TicketServerArgs {
    cert: PathBuf,
    key: PathBuf,
    /// An encoded ResolveResponse
    answer: PathBuf,
}

struct Bare {
    answer: ResolveResponse,
}

#[tonic::async_trait]
impl Tickets for Bare {
    async fn renew(&self, _request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn publish(&self, _: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn resolve(&self, _: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn resolve_many(&self, _: Request<ResolveManyRequest>) -> Result<Response<ResolveManyResponse>, Status> {
        Err(Status::unimplemented("only Resolve is compared"))
    }
}

pub(crate) fn serve(args: &TicketServerArgs) -> anyhow::Result<()> {
    let answer = ResolveResponse::decode(&*fs::read(&args.answer).context("read the answer")?)?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(read(&args.cert)?, read(&args.key)?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?.with_nodelay(Some(true));
        eprintln!("listens at {}", incoming.local_addr()?);
        let server = Server::builder().tls_config(tls)?.add_service(TicketsServer::new(Bare { answer }));
        server.serve_with_incoming(incoming).await.context("serve")
    })
}

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    let runtime = viewer::runtime()?;
    let title = small(0);
    let answer = runtime.block_on(async {
        let mut tickets = viewer::tickets(&testbed.cluster.address, &testbed.cluster.ca()).await?;
        anyhow::Ok(tickets.resolve(viewer::play(&title)).await.context("ask for a ticket")?.into_inner())
    })?;
    let dir = testbed.state()?;
    let file = dir.path().join("answer");
    fs::write(&file, answer.encode_to_vec()).context("write an answer")?;
    let (cert, key) = testbed.master_identity();
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    let mut bare = start(command.arg("peers-tickets-server").args([cert, key, file]))?;
    let (line, _) = bare.find("listens at ")?;
    let address = line.trim_end().rsplit(' ').next().context("an address")?;
    let _: SocketAddr = address.parse().context("an address")?;
    bare.ignore_log();
    let drive = |address, server| runtime.block_on(LocalSet::new().run_until(drive(testbed, address, server)));
    enter(results, "tickets", Peer { name: "bare tonic", suffix: "" }, rep, drive(address, bare.id()));
    results.enter("tickets", SELF, rep, drive(&testbed.cluster.address, testbed.cluster.master.id())?);
    Ok(())
}

async fn drive(testbed: &Testbed, address: &str, server: u32) -> anyhow::Result<Figures> {
    let left = Rc::new(Cell::new(testbed.sizes.calls));
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut channel = viewer::tickets(address, &testbed.cluster.ca()).await?;
        channel.resolve(viewer::play(&small(0))).await.context("ask for a ticket")?;
        channels.push(channel);
    }
    let meter = Meter::start(&[server])?;
    let mut callers = JoinSet::new();
    for channel in channels {
        for _ in 0..IN_FLIGHT {
            let (mut channel, left, smalls) = (channel.clone(), Rc::clone(&left), testbed.sizes.smalls);
            callers.spawn_local(async move {
                while let Some(next) = left.get().checked_sub(1) {
                    left.set(next);
                    let answer =
                        channel.resolve(viewer::play(&small(next % smalls))).await.context("ask for a ticket")?;
                    ensure!(!answer.get_ref().seats.is_empty(), "an answer without a seat");
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(ended) = callers.join_next().await {
        ended.context("a caller")??;
    }
    let (calls, wall) = (testbed.sizes.calls as f64, meter.elapsed().as_secs_f64());
    Ok(vec![
        ("tickets per CPU-s (more is better)", calls / meter.seconds()?),
        ("tickets per s, one client thread (more is better)", calls / wall),
    ])
}
