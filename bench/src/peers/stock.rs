//! Stock quinn, the contender that does nothing else: this program, started again, as a bare server and a bare client.
//! quinn's own settings, one thread each, files read by pread; the client throws away what it gets, unverified.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt as _,
    path::{Component, Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use quinn::{
    Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::task::JoinSet;
use usher_certs::{pin, tls};
use usher_kit::Process;

use super::viewer;
use crate::cluster::start;

/// Bytes read from a file at once, into fresh memory that quinn then owns.
const PIECE: usize = 512 * 1024;

/// The longest requested path, in bytes.
const MAX_PATH: usize = 4096;

/// Serves files over bare QUIC: a path on a stream, then the file.
#[derive(clap::Args)]
pub(crate) struct QuicServerArgs {
    root: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// Fetches files over bare QUIC, all at once on one connection, and throws them away.
#[derive(clap::Args)]
pub(crate) struct QuicClientArgs {
    server: SocketAddr,
    /// The server's certificate
    cert: PathBuf,
    #[arg(required = true)]
    paths: Vec<String>,
}

/// A running server.
pub(crate) struct Stock {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) cert: PathBuf,
}

impl Stock {
    pub(crate) fn start(root: &Path, cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        let mut process = start(command.arg("peers-quinn-server").args([root, cert, key]))?;
        let (line, _) = process.find("listens at ")?;
        let address = line.trim_end().rsplit(' ').next().context("an address")?.parse().context("an address")?;
        process.ignore_log();
        Ok(Self { process, address, cert: cert.to_owned() })
    }

    /// A client for these paths.
    pub(crate) fn client(&self, paths: &[String]) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("peers-quinn-client").arg(self.address.to_string()).arg(&self.cert).args(paths);
        Ok(command)
    }
}

pub(crate) fn serve(args: &QuicServerArgs) -> anyhow::Result<()> {
    viewer::runtime()?.block_on(async {
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls(args)?)?));
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), viewer::socket()?, runtime)?;
        eprintln!("listens at {}", endpoint.local_addr()?);
        while let Some(incoming) = endpoint.accept().await {
            let root = args.root.clone();
            tokio::spawn(async move {
                // Errors of a client that leaves are ignored.
                if let Ok(connection) = incoming.await {
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        tokio::spawn(send_file(root.clone(), send, receive));
                    }
                }
            });
        }
        Ok(())
    })
}

/// TLS 1.3, the same cryptography and ALPN as Usher. quinn seals its packets with ring by default, and so do
/// both here where ring is faster.
fn server_tls(args: &QuicServerArgs) -> anyhow::Result<rustls::ServerConfig> {
    let cert = CertificateDer::from_pem_file(&args.cert).context("read the certificate")?;
    let key = PrivateKeyDer::from_pem_file(&args.key).context("read the key")?;
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    config.alpn_protocols = vec![usher_proto::ALPN.to_vec()];
    Ok(config)
}

async fn send_file(root: PathBuf, mut send: SendStream, mut receive: RecvStream) -> anyhow::Result<()> {
    let path = String::from_utf8(receive.read_to_end(MAX_PATH).await?)?;
    let inside = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(inside, "{path} leaves the folder");
    let file = File::open(root.join(path))?;
    let mut at = 0;
    loop {
        let mut piece = vec![0; PIECE];
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        piece.truncate(read);
        at += read as u64;
        send.write_chunk(Bytes::from(piece)).await?;
    }
    send.finish()?;
    // Until the last byte is acknowledged; else it might not be sent at all.
    send.stopped().await?;
    Ok(())
}

pub(crate) fn fetch(args: &QuicClientArgs) -> anyhow::Result<()> {
    viewer::runtime()?.block_on(async {
        let endpoint = viewer::endpoint()?;
        let connection = dial(&endpoint, args.server, &args.cert).await?;
        let mut fetches = JoinSet::new();
        for path in args.paths.clone() {
            let connection = connection.clone();
            fetches.spawn(async move { fetch_one(&connection, &path).await });
        }
        let mut bytes = 0;
        while let Some(fetched) = fetches.join_next().await {
            bytes += fetched.context("a fetch")??;
        }
        endpoint.close(VarInt::from_u32(0), b"done");
        endpoint.wait_idle().await;
        println!("{bytes}");
        Ok(())
    })
}

/// Dials a bare server that has this certificate.
pub(crate) async fn dial(endpoint: &Endpoint, server: SocketAddr, cert: &Path) -> anyhow::Result<Connection> {
    if server.ip() != Ipv4Addr::LOCALHOST {
        bail!("{server} is not on loopback");
    }
    let cert = CertificateDer::from_pem_file(cert).context("read the certificate")?;
    let config = viewer::trust(vec![pin::sha256(&cert)], TransportConfig::default())?;
    endpoint.connect_with(config, server, "localhost")?.await.context("dial the server")
}

async fn fetch_one(connection: &Connection, path: &str) -> anyhow::Result<u64> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(path.as_bytes()).await?;
    send.finish()?;
    let mut chunks: [Bytes; 32] = Default::default();
    let mut bytes = 0;
    while let Some(read) = receive.read_chunks(&mut chunks).await? {
        bytes += chunks.iter().take(read).map(|chunk| chunk.len() as u64).sum::<u64>();
    }
    Ok(bytes)
}
