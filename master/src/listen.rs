//! The listener of the master, with a bound on its connections: one more waits in the kernel's queue until another ends.
//! Owns what a failed accept means. Refuses to know what is spoken over a connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

use crate::metrics::Level;

/// Before the next accept after one that failed for want of files or memory: it would fail again at once, and the
/// connection that made it fail is still there.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that counts while it is open.
pub(crate) struct Connection {
    stream: TcpStream,
    open: Level,
    _place: OwnedSemaphorePermit,
}

/// The connections of `listener`, at most `most` at once.
pub(crate) fn connections(
    listener: TcpListener,
    most: usize,
    open: Level,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(most));
    stream::unfold((listener, places, open), move |(listener, places, open)| async move {
        // The semaphore is never closed.
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                warn!(most, "all connections are taken; the next ones wait until one ends (--max-connections)");
                Arc::clone(&places).acquire_owned().await.ok()?
            }
        };
        let stream = accept(&listener).await;
        open.inc();
        let connection = Connection { stream, open: open.clone(), _place: place };
        Some((Ok(connection), (listener, places, open)))
    })
}

/// The next connection. A failure is the connection's own or passes: it never ends the listener.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                // Answers are small and awaited. If it cannot be set, they are slower and right.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no delay could not be set");
                }
                return stream;
            }
            // The client was gone before it was looked at.
            Err(error) if is_its_own(&error) => {}
            Err(error) => {
                warn!(%error, "a connection was not accepted; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_its_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
