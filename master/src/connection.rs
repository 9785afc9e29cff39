//! One HTTP/2 connection after its handshake: serves its calls until it ends, is idle for too long, or has to leave. Owns the
//! limits of its buffers.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::calls::CallService;

/// First bytes of every HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Interval of pings on a silent connection, and the time to answer one. Together below two leases, so that the channel
/// of a dead node closes soon after its lease.
const PING: Duration = Duration::from_secs(4);

/// Limit of concurrent calls of a client without a certificate. HTTP/2 ends a connection on which small frames of 256 bytes
/// each, as they are counted, fill half of the window: here 128 of them.
const CALLS: u32 = 100;

/// The same for nodes and operators.
const NAMED_CALLS: u32 = 256;

/// Limit of header bytes per call.
const HEADERS: u32 = 16 << 10;

/// Received bytes that may wait on a connection of a client without a certificate.
const WINDOW: u32 = 64 << 10;

/// The same for nodes, which send their catalogs, and for operators.
const NAMED_WINDOW: u32 = 1 << 20;

/// Bytes of an answer that may wait for the client to read.
const SEND_BUFFER: usize = 64 << 10;

/// Time in which an idle connection says goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The same for one whose place is taken: just enough for what is sent at once.
const SHORT_GOODBYE: Duration = Duration::from_millis(100);

/// Signals to a connection.
pub(crate) struct Signals {
    /// Number of running calls.
    pub(crate) running: watch::Receiver<usize>,
    /// Its place is needed for another connection.
    pub(crate) displaced: CancellationToken,
    /// The master ends.
    pub(crate) ending: CancellationToken,
    /// Time without a call after which it is closed.
    pub(crate) idle: Duration,
}

/// A connection whose preface was read.
pub(crate) struct Opened<S> {
    stream: S,
    /// Part of the preface that HTTP/2 has yet to see.
    preface: &'static [u8],
}

/// Reads the preface, so that a deadline covers it.
///
/// # Errors
/// When the connection ends before, or begins otherwise.
pub(crate) async fn open<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Opened<S>> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first bytes are not those of HTTP/2"));
    }
    Ok(Opened { stream, preface: PREFACE })
}

/// Serves a connection to its end.
pub(crate) async fn serve<S>(opened: Opened<S>, calls: CallService, named: bool, signals: Signals)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Signals { running, displaced, ending, idle } = signals;
    let (window, most_calls) = if named { (NAMED_WINDOW, NAMED_CALLS) } else { (WINDOW, CALLS) };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(most_calls)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection = pin!(http.serve_connection(TokioIo::new(opened), calls));
    let limit = tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                debug!(%error, "connection failed");
            }
            return;
        }
        // The calls that run end with the master, which limits the time.
        () = ending.cancelled() => None,
        () = displaced.cancelled() => Some(SHORT_GOODBYE),
        () = is_idle(running, idle) => {
            debug!("connection closed: no call for a while");
            Some(GOODBYE)
        }
    };
    connection.as_mut().graceful_shutdown();
    // A client that does not answer the goodbye is left.
    let _error = match limit {
        Some(limit) => timeout(limit, connection).await.map_or(Ok(()), |ended| ended),
        None => connection.await,
    };
}

/// Returns after `limit` without a call.
async fn is_idle(mut running: watch::Receiver<usize>, limit: Duration) {
    loop {
        // The sender lives in the connection.
        if running.wait_for(|running| *running == 0).await.is_err() {
            return;
        }
        if timeout(limit, running.changed()).await.is_err() {
            return;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let (now, later) = self.preface.split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_preface_is_read_twice() {
        let bytes = [&PREFACE[..], b"more"].concat();
        let mut opened = open(&bytes[..]).await.expect("HTTP/2");
        let mut seen = Vec::new();
        opened.read_to_end(&mut seen).await.expect("read");
        assert_eq!(seen, bytes);
        for wrong in [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], &PREFACE[..23], b""] {
            assert!(open(wrong).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_without_a_call_is_idle() {
        let (sender, running) = watch::channel(1);
        let idle = is_idle(running, Duration::from_secs(60));
        let mut idle = pin!(idle);
        for calls in [1, 0, 1, 0] {
            sender.send_replace(calls);
            assert!(timeout(Duration::from_secs(50), &mut idle).await.is_err(), "{calls} calls");
        }
        sender.send_replace(1);
        assert!(timeout(Duration::from_secs(5000), &mut idle).await.is_err(), "a call runs");
        sender.send_replace(0);
        assert!(timeout(Duration::from_secs(61), &mut idle).await.is_ok());
    }
}
