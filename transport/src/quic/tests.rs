//! Endpoints of ours and of quinn's, over loopback and over a network in memory whose clock passes only while everybody
//! waits.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, ClientConfig, ConnectionError, ReadError, ServerConfig, UdpPoller, VarInt, WriteError,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
    udp::{RecvMeta, Transmit},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::runtime::Handle;
use usher_relay::{core::lane::Settings, memory};

use super::*;
use crate::Offload;

const NAME: &str = "localhost";

fn configs() -> (ServerConfig, ClientConfig) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
    let certificate: CertificateDer<'static> = params.self_signed(&key).expect("a certificate").into();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).expect("a server");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    (server, ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client"))
}

fn bytes(count: usize) -> Bytes {
    (0..count).map(|i| (i / 7 + i) as u8).collect()
}

/// Says everything back on its stream, for one connection.
async fn echo(endpoint: Endpoint) {
    let connection = endpoint.accept().await.expect("someone").accept().expect("a hello").await.expect("a handshake");
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        tokio::spawn(async move {
            while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.expect("goes on") {
                send.write_chunk(chunk.bytes).await.expect("taken");
            }
            send.finish().expect("finished");
        });
    }
}

fn loopback(server: Option<ServerConfig>, offload: Offload) -> Endpoint {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("set");
    crate::endpoint(&Handle::current(), socket, server, offload).expect("an endpoint")
}

#[tokio::test]
async fn echoed_bytes_are_complete() {
    let said = bytes(3 << 20);
    for offload in [Offload::Auto, Offload::Off] {
        let (server, client) = configs();
        let server = loopback(Some(server), offload);
        let address = server.local_addr().expect("an address");
        let echo = tokio::spawn(echo(server));
        let dialler = loopback(None, offload);
        let connection = dialler.connect_with(client, address, NAME).expect("dials").await.expect("a handshake");
        let streams = (0..3).map(|_| async {
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            let talk = async {
                send.write_all(&said).await.expect("taken");
                send.finish().expect("finished");
                send.stopped().await.expect("acknowledged")
            };
            let (end, heard) = tokio::join!(talk, receive.read_to_end(said.len()));
            assert!(end.is_none() && heard.expect("all of it") == said, "{offload:?}");
        });
        futures::future::join_all(streams).await;
        connection.close(VarInt::from_u32(7), b"done");
        assert_eq!(connection.closed().await, ConnectionError::LocallyClosed);
        echo.await.expect("ends");
        dialler.wait_idle().await;
        assert_eq!(dialler.open_connections(), 0);
    }
}

#[tokio::test]
async fn quinns_own_endpoint_understands_it() {
    let (server, client) = configs();
    let server = loopback(Some(server), Offload::Auto);
    let address = server.local_addr().expect("an address");
    let echo = tokio::spawn(echo(server));
    let dialler = quinn::Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let connection = dialler.connect_with(client, address, NAME).expect("dials").await.expect("a handshake");
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let said = bytes(1 << 20);
    let talk = async {
        send.write_all(&said).await.expect("taken");
        send.finish().expect("finished");
    };
    let ((), heard) = tokio::join!(talk, receive.read_to_end(said.len()));
    assert!(heard.expect("all of it") == said);
    connection.close(VarInt::from_u32(0), b"");
    echo.await.expect("ends");
}

/// A socket of the network in memory that has room for two calls of three, and counts.
#[derive(Debug)]
struct Narrow {
    inner: Arc<memory::Socket>,
    /// Refused ones too.
    calls: AtomicUsize,
    datagrams: AtomicUsize,
    /// Whether there is ever no room.
    narrow: bool,
}

impl Narrow {
    fn new(inner: Arc<memory::Socket>, narrow: bool) -> Arc<Self> {
        Arc::new(Self { inner, calls: AtomicUsize::new(0), datagrams: AtomicUsize::new(0), narrow })
    }
}

/// Has room when asked the second time.
#[derive(Debug)]
struct Soon(bool);

impl UdpPoller for Soon {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0 {
            return Poll::Ready(Ok(()));
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncUdpSocket for Narrow {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Soon(false))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % 3 == 2 && self.narrow {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.datagrams.fetch_add(transmit.contents.len().div_ceil(segment), Ordering::Relaxed);
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }

    fn max_transmit_segments(&self) -> usize {
        64
    }
}

/// A server that sends so many bytes to whoever comes, and a connection to it; 10 ms each way.
async fn downloads(count: usize, narrow: bool, window: Option<u64>) -> (Arc<Narrow>, Connection, Endpoint) {
    let (server, client) = configs();
    let network = memory::Network::default();
    let link = |seed| Settings { delay: Duration::from_millis(10), seed, ..Settings::default() };
    let (near, far) = (network.host(link(1)), network.host(link(2)));
    let (address, far) = (far.address(), Narrow::new(far, narrow));
    let server = Endpoint::new(&Handle::current(), far.clone(), Some(server)).expect("an endpoint");
    tokio::spawn(async move {
        let incoming = server.accept().await.expect("someone");
        let connection = incoming.accept().expect("a hello").await.expect("a handshake");
        let mut send = connection.open_uni().await.expect("a stream");
        if let Some(window) = window {
            connection.set_send_window(window);
        }
        let mut chunks = [bytes(count)];
        let mut least = usize::MAX;
        while !chunks[0].is_empty() {
            let Ok(written) = send.write_chunks(&mut chunks).await else { return };
            least = least.min(if chunks[0].is_empty() { usize::MAX } else { written.bytes });
        }
        if let Some(window) = window {
            assert!(least as u64 >= window / 2, "{least} bytes at a time");
        }
        send.finish().expect("finished");
        connection.closed().await;
    });
    let dialler = Endpoint::new(&Handle::current(), near, None).expect("an endpoint");
    let connection = dialler.connect_with(client, address, NAME).expect("dials").await.expect("a handshake");
    (far, connection, dialler)
}

#[tokio::test(start_paused = true)]
async fn calls_are_filled() {
    let (socket, connection, _dialler) = downloads(8 << 20, false, None).await;
    let mut stream = connection.accept_uni().await.expect("a stream");
    assert!(stream.read_to_end(8 << 20).await.expect("all of it") == bytes(8 << 20));
    let (calls, datagrams) = (socket.calls.load(Ordering::Relaxed), socket.datagrams.load(Ordering::Relaxed));
    assert!(datagrams > calls * 10, "{datagrams} datagrams in {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn a_socket_without_room_loses_nothing() {
    let (socket, connection, _dialler) = downloads(2 << 20, true, None).await;
    let mut stream = connection.accept_uni().await.expect("a stream");
    assert!(stream.read_to_end(2 << 20).await.expect("all of it") == bytes(2 << 20));
    assert!(socket.calls.load(Ordering::Relaxed) > 30);
    // Lost frames would have been sent again: a third of them.
    let frames = connection.stats().frame_rx.stream;
    assert!(frames < (2 << 20) / 1000, "{frames} frames of 1,100 to 1,400 bytes");
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_window_full_writes_again_when_half_of_it_is_acknowledged() {
    let (_socket, connection, _dialler) = downloads(1 << 20, false, Some(64 << 10)).await;
    let mut stream = connection.accept_uni().await.expect("a stream");
    assert!(stream.read_to_end(1 << 20).await.expect("all of it") == bytes(1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_as_each_side_says() {
    let (_socket, connection, _dialler) = downloads(1 << 20, false, None).await;
    let mut stream = connection.accept_uni().await.expect("a stream");
    let mut some = [0; 1000];
    stream.read_exact(&mut some).await.expect("something");
    assert!(some[..] == bytes(1000));
    stream.stop(VarInt::from_u32(5)).expect("runs");
    assert_eq!(stream.read(&mut some).await, Ok(None));
    assert!(stream.stop(VarInt::from_u32(5)).is_err(), "it is over");
    drop(stream);
    // The peer allows no stream the other way until it has heard of the end of the connection.
    let mut send = connection.open_uni().await.expect("a stream");
    connection.close(VarInt::from_u32(1), b"bye");
    assert_eq!(send.write(&some).await, Err(WriteError::ConnectionLost(ConnectionError::LocallyClosed)));
    assert_eq!(connection.open_bi().await.err(), Some(ConnectionError::LocallyClosed));
}

#[tokio::test]
async fn whoever_drops_the_last_handle_closes_the_connection() {
    let (server, client) = configs();
    let server = loopback(Some(server), Offload::Auto);
    let address = server.local_addr().expect("an address");
    let dialler = loopback(None, Offload::Auto);
    let dialled = dialler.connect_with(client, address, NAME).expect("dials");
    let incoming = server.accept().await.expect("someone");
    assert!(!incoming.remote_address_validated() && incoming.may_retry());
    // Proves its address, and comes again.
    incoming.retry();
    let incoming = server.accept().await.expect("again");
    assert!(incoming.remote_address_validated() && !incoming.may_retry());
    let (accepted, _) = incoming.accept().expect("a hello").into_0rtt().expect("always at this side");
    let connection = dialled.await.expect("a handshake");
    let mut stream = connection.open_uni().await.expect("a stream");
    stream.write_all(b"a").await.expect("taken");
    // A stream is a handle too.
    drop(connection);
    let mut heard = accepted.accept_uni().await.expect("a stream");
    stream.write_all(b"b").await.expect("taken");
    heard.read_exact(&mut [0; 2]).await.expect("both");
    stream.reset(VarInt::from_u32(3)).expect("runs");
    assert_eq!(heard.read(&mut [0]).await, Err(ReadError::Reset(VarInt::from_u32(3))));
    drop(stream);
    let ConnectionError::ApplicationClosed(close) = accepted.closed().await else { panic!("closed otherwise") };
    assert_eq!(close.error_code, VarInt::from_u32(0));
    server.wait_idle().await;
    // Nobody holds them, and nothing is left of them: the port is free.
    drop((server, dialler, accepted, heard));
    while UdpSocket::bind(address).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_refused_peer_receives_an_error() {
    let (server, client) = configs();
    let server = loopback(Some(server), Offload::Auto);
    let address = server.local_addr().expect("an address");
    let dialler = loopback(None, Offload::Auto);
    let dialled = dialler.connect_with(client.clone(), address, NAME).expect("dials");
    server.accept().await.expect("someone").refuse();
    assert!(matches!(dialled.await, Err(ConnectionError::ConnectionClosed(_))));
    server.close(VarInt::from_u32(2), b"closed");
    assert!(server.accept().await.is_none());
    let dialled = dialler.connect_with(client.clone(), address, NAME).expect("dials");
    assert!(matches!(dialled.await, Err(ConnectionError::ConnectionClosed(_))));
    dialler.close(VarInt::from_u32(2), b"closed");
    assert!(dialler.connect_with(client, address, NAME).is_err());
}

#[test]
fn connections_of_a_runtime_that_ends_are_over() {
    let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
    let (ends, stays) = (start(), start());
    let (server, client) = configs();
    let (connection, endpoint) = stays.block_on(async {
        let server = loopback(Some(server), Offload::Auto);
        let address = server.local_addr().expect("an address");
        tokio::spawn(echo(server));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("set");
        let dialler = crate::endpoint(ends.handle(), socket, None, Offload::Auto).expect("an endpoint");
        (dialler.connect_with(client, address, NAME).expect("dials").await.expect("a handshake"), dialler)
    });
    drop(ends);
    stays.block_on(connection.closed());
    stays.block_on(endpoint.wait_idle());
}
