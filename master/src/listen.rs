//! The master's listener with a limit on connections: further ones wait in the kernel's queue. Owns the handling of
//! failed accepts.

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

/// Pause after an accept that failed for lack of file descriptors or memory, which would fail again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection, counted in a gauge while it is open.
pub(crate) struct Connection {
    stream: TcpStream,
    open: Level,
    _place: OwnedSemaphorePermit,
}

/// The connections of `listener`, at most `most` at a time.
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
                warn!(most, "connection limit reached; further connections wait (--max-connections)");
                Arc::clone(&places).acquire_owned().await.ok()?
            }
        };
        let stream = accept(&listener).await;
        open.inc();
        let connection = Connection { stream, open: open.clone(), _place: place };
        Some((Ok(connection), (listener, places, open)))
    })
}

/// Accepts the next connection. Failures are those of one connection or transient; they never end the listener.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                // Answers are small and awaited. Without the option they are slower, but correct.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY not set");
                }
                return stream;
            }
            // The client left before the accept.
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                warn!(%error, "accept failed; retrying");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an accept error concerns one connection only.
fn is_connection_error(error: &io::Error) -> bool {
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
