//! A TCP relay that adds a delay in each direction. Independent of the forwarded bytes; `core::opening` decides when they are
//! forwarded.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time,
};

use crate::core::opening::Opening;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Chunks in flight in one direction: 1 MiB, which is 80 Mbit/s at 100 ms.
const MAX_IN_FLIGHT: usize = 64;

/// A running relay. Dropping it ends it and its connections.
pub struct TcpRelay {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl TcpRelay {
    /// Binds a port on loopback that forwards to `server` with `delay` in each direction.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind the relay's port for clients")?;
        let address = listener.local_addr().context("read the relay's address")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let opening = Opening { accepted: Instant::now(), delay };
                connections.spawn(async move {
                    // A connection that fails is closed on both sides.
                    drop(serve(client, server, opening).await);
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// The relay's address, which clients use for the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(client: TcpStream, server: SocketAddr, opening: Opening) -> io::Result<()> {
    let upstream = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), upstream.into_split());
    tokio::try_join!(
        forward(from_client, to_server, |now| opening.to_server(now)),
        forward(from_server, to_client, |now| opening.to_client(now)),
    )?;
    Ok(())
}

/// Forwards bytes when they are due, and then the end of the stream.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, due: impl Fn(Instant) -> Instant) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(MAX_IN_FLIGHT);
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let len = from.read(&mut buffer).await?;
            let chunk = Bytes::copy_from_slice(&buffer[..len]);
            // An empty chunk is the end of the stream, which has the same delay.
            if sender.send((due(Instant::now()), chunk)).await.is_err() || len == 0 {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = receiver.recv().await {
            time::sleep_until(at.into()).await;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_and_the_end_arrive_in_order_after_their_delay() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let delay = Duration::from_millis(20);
        let relay = TcpRelay::start(listener.local_addr().expect("bound"), delay).await.expect("a relay");
        let dialled = Instant::now();
        let mut client = TcpStream::connect(relay.address()).await.expect("connected");
        let data: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let sent = tokio::spawn({
            let data = data.clone();
            async move {
                client.write_all(&data).await.expect("written");
                client.shutdown().await.expect("ended");
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.expect("read");
                answer
            }
        });
        let (mut server, _) = listener.accept().await.expect("accepted");
        let mut got = vec![0];
        server.read_exact(&mut got).await.expect("read");
        assert!(dialled.elapsed() >= 3 * delay, "a handshake and one way");
        server.read_to_end(&mut got).await.expect("read");
        assert!(got == data);
        server.write_all(b"bye").await.expect("written");
        drop(server);
        assert_eq!(sent.await.expect("no panic"), b"bye");
    }
}
