//! A flood: many hostile connections or calls from one source address, opened again whenever the server ends them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use usher_certs::tls::provider;
use usher_kit::Layout;
use usher_proto::pb::v1::{self, cluster_client::ClusterClient};

use crate::http2;

/// Pause of a place in the flood before it is opened again: the flood is to fill what the server has, not this machine.
const PAUSE: Duration = Duration::from_millis(500);

/// An act that every place of a flood repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Opens a TCP connection and sends nothing.
    SilentTcp,
    /// Finishes TLS and sends nothing.
    SilentTls,
    /// Opens HTTP/2, makes no call, and answers pings.
    Pings,
    /// Watches the nodes.
    Watches,
    /// Begins a call and never finishes its request.
    HalfRequests,
}

/// A source address with the way to a cluster's master.
#[derive(Clone)]
pub struct Source {
    address: IpAddr,
    master: SocketAddr,
    tls: TlsConnector,
    ca: String,
}

/// A running flood; it stops when dropped.
pub struct Flood {
    open: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    // Dropped last: its end ends every connection.
    _runtime: Runtime,
}

/// Counts an open connection or call for its lifetime.
struct OpenCount<'a>(&'a AtomicUsize);

impl<'a> OpenCount<'a> {
    fn new(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for OpenCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source {
    /// A client of the cluster at this address.
    ///
    /// # Errors
    /// When the cluster's certificate cannot be read, or its master does not run.
    pub fn new(layout: &Layout, address: impl Into<IpAddr>) -> anyhow::Result<Self> {
        let ca = fs::read_to_string(layout.ca()).context("read the authority's certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).context("parse the authority's certificate")?)?;
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let master = layout.address.parse().context("the address of a master that runs")?;
        Ok(Self { address: address.into(), master, tls: TlsConnector::from(Arc::new(tls)), ca })
    }

    /// A gRPC channel from this address.
    ///
    /// # Errors
    /// When the master does not answer.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        let tls =
            ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(self.ca.as_bytes()));
        let endpoint = Endpoint::from_shared(format!("https://{}", self.master))?.tls_config(tls)?;
        endpoint.local_address(Some(self.address)).connect().await.context("dial the master")
    }

    async fn tcp(&self) -> anyhow::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.address, 0).into())?;
        Ok(socket.connect(self.master).await?)
    }

    async fn tls(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        Ok(self.tls.connect(ServerName::try_from("localhost")?, self.tcp().await?).await?)
    }

    /// Does it once, until the server ends it.
    async fn attack(&self, attack: Attack, open: &AtomicUsize) -> anyhow::Result<()> {
        let mut end = [0];
        match attack {
            Attack::SilentTcp => {
                let mut stream = self.tcp().await?;
                let _open = OpenCount::new(open);
                stream.read_exact(&mut end).await?;
            }
            Attack::SilentTls => {
                let mut stream = self.tls().await?;
                let _open = OpenCount::new(open);
                stream.read_exact(&mut end).await?;
            }
            Attack::Pings => {
                let mut stream = self.tls().await?;
                http2::open(&mut stream).await?;
                let _open = OpenCount::new(open);
                http2::idle(&mut stream).await?;
            }
            Attack::Watches => {
                let mut cluster = ClusterClient::new(self.channel().await?);
                let mut watch = cluster.watch(v1::WatchRequest {}).await?.into_inner();
                let _open = OpenCount::new(open);
                while watch.message().await?.is_some() {}
            }
            Attack::HalfRequests => {
                let mut stream = self.tls().await?;
                http2::open(&mut stream).await?;
                http2::begin_call(&mut stream).await?;
                let _open = OpenCount::new(open);
                http2::idle(&mut stream).await?;
            }
        }
        Ok(())
    }
}

impl Flood {
    /// Starts a flood of `places` at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(source: &Source, attack: Attack, places: usize) -> anyhow::Result<Self> {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = threads.context("start a runtime")?;
        let (open, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..places {
            let (source, open, ended) = (source.clone(), Arc::clone(&open), Arc::clone(&ended));
            runtime.spawn(async move {
                loop {
                    // Every end is the server's doing.
                    drop(source.attack(attack, &open).await);
                    ended.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
            });
        }
        Ok(Self { open, ended, _runtime: runtime })
    }

    /// Connections or calls that are open now, as far as the attacker knows.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections or calls that the server refused or ended.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}
