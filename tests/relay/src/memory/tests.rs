//! Two of quinn's endpoints with a network in memory between them. Time passes only while every task waits.

use std::time::Duration;

use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

use super::*;

/// The server's data.
const BYTES: usize = 3 << 20;

/// Its signatures are all of one length, unlike those of ECDSA: no datagram is longer in one run than in the next.
fn certificate() -> (CertificateDer<'static>, Vec<u8>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate").into(), key.serialize_der())
}

fn endpoint(socket: Arc<Socket>, server: Option<ServerConfig>, seed: u8) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.rng_seed(Some([seed; 32]));
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

/// When each chunk of a download arrived, with a black hole from the server to the client from 2 s to 4 s; and what the
/// way to the client did.
async fn download(certificate: &(CertificateDer<'static>, Vec<u8>), seed: u64) -> (Vec<(Duration, usize)>, Counts) {
    let network = Network::default();
    let link = |seed| Settings { delay: Duration::from_millis(25), loss_ppm: 10_000, seed, ..Settings::default() };
    let (near, far) = (network.host(link(seed)), network.host(link(seed + 1)));
    let (here, there) = (near.address(), far.address());

    let transport = Arc::new(TransportConfig::default());
    let key = PrivatePkcs8KeyDer::from(certificate.1.clone());
    let mut server = ServerConfig::with_single_cert(vec![certificate.0.clone()], key.into()).expect("a server");
    server.transport_config(transport.clone());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.0.clone()).expect("a root");
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");
    client.transport_config(transport);

    let (server, dialler) = (endpoint(far, Some(server), 1), endpoint(near, None, 2));
    let serves = tokio::spawn(async move {
        let connection = server.accept().await.expect("someone").await.expect("a handshake");
        let mut send = connection.open_uni().await.expect("a stream");
        send.write_all(&vec![7; BYTES]).await.expect("written");
        send.finish().expect("finished");
        connection.closed().await;
    });
    let hole = network.clone();
    let breaks = tokio::spawn(async move {
        for dark in [true, false] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            hole.set_hole(here, dark);
        }
    });
    let began = Instant::now();
    let connection = dialler.connect_with(client, there, "localhost").expect("dials").await.expect("a handshake");
    let mut stream = connection.accept_uni().await.expect("a stream");
    let mut events = Vec::new();
    while let Some(chunk) = stream.read_chunk(64 * 1024, true).await.expect("read") {
        events.push((began.elapsed(), chunk.bytes.len()));
    }
    connection.close(0_u8.into(), b"");
    serves.await.expect("served");
    breaks.await.expect("broke");
    (events, network.counts(here))
}

/// A runtime of its own, whose clock stands still while anybody works.
fn run(certificate: &(CertificateDer<'static>, Vec<u8>), seed: u64) -> (Vec<(Duration, usize)>, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let (events, counts) = runtime.expect("a runtime").block_on(download(certificate, seed));
    assert_eq!(events.iter().map(|(_, len)| len).sum::<usize>(), BYTES);
    assert!(counts.lost > 0 && counts.swallowed > 0, "{counts:?}");
    (events, counts.datagrams)
}

#[test]
fn the_same_seed_gives_the_same_times() {
    let certificate = certificate();
    let first = run(&certificate, 1);
    assert_eq!(first, run(&certificate, 1));
    assert_ne!(first, run(&certificate, 2));
    // Nothing came through the hole, whose last datagrams were on their way when it began.
    let (from, to) = (Duration::from_millis(2026), Duration::from_secs(4));
    assert!(first.0.iter().all(|(at, _)| *at <= from || *at >= to));
    assert!(first.0.iter().any(|(at, _)| *at >= to), "it went on behind it");
}
