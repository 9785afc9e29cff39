//! The half of a stream that is written to.

use std::{
    fmt,
    future::{Future, poll_fn},
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::{StoppedError, WriteError};
use quinn_proto::{ClosedStream, FinishError, StreamId, VarInt, Written};

use super::connection_inner::{ConnectionRef, ConnectionState};

/// The half of a stream that is written to. Dropping it finishes the stream.
pub struct SendStream {
    connection: ConnectionRef,
    id: StreamId,
    /// Opened before the end of the handshake.
    early: bool,
}

impl SendStream {
    pub(super) fn new(connection: ConnectionRef, id: StreamId, early: bool) -> Self {
        Self { connection, id, early }
    }

    /// Writes some of these bytes and returns their number.
    ///
    /// # Errors
    /// The peer stopped the stream, the connection has ended, or the stream is finished or reset.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll(cx, |stream| stream.write(bytes))).await
    }

    /// Writes all of these bytes.
    ///
    /// # Errors
    /// As [`Self::write`]; some may have been written.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Writes some of these chunks without copying them; the remaining bytes stay in them.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Written, WriteError> {
        poll_fn(|cx| self.poll(cx, |stream| stream.write_chunks(chunks))).await
    }

    /// Writes a whole chunk without copying it.
    ///
    /// # Errors
    /// As [`Self::write`]; some of it may have been written.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        let mut chunks = [chunk];
        while !chunks[0].is_empty() {
            self.write_chunks(&mut chunks).await?;
        }
        Ok(())
    }

    fn poll<T>(
        &self,
        cx: &Context<'_>,
        write: impl FnOnce(&mut quinn_proto::SendStream<'_>) -> Result<T, quinn_proto::WriteError>,
    ) -> Poll<Result<T, WriteError>> {
        let mut state = self.connection.lock();
        if state.rejects(self.early) {
            return Poll::Ready(Err(WriteError::ZeroRttRejected));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(WriteError::ConnectionLost(error.clone())));
        }
        state.set_full(false);
        let written = write(&mut state.machine.send_stream(self.id));
        match written {
            Ok(written) => {
                drop(state);
                self.connection.wake();
                Poll::Ready(Ok(written))
            }
            Err(quinn_proto::WriteError::Blocked) => {
                state.set_full(true);
                state.writers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Err(quinn_proto::WriteError::Stopped(code)) => Poll::Ready(Err(WriteError::Stopped(code))),
            Err(quinn_proto::WriteError::ClosedStream) => Poll::Ready(Err(WriteError::ClosedStream)),
        }
    }

    /// Finishes the stream after the bytes written so far.
    ///
    /// # Errors
    /// The stream is finished or reset already.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let mut state = self.connection.lock();
        let finished = state.machine.send_stream(self.id).finish();
        drop(state);
        match finished {
            Ok(()) => self.connection.wake(),
            Err(FinishError::ClosedStream) => return Err(ClosedStream::default()),
            // A stream that the peer stopped is as good as finished.
            Err(FinishError::Stopped(_)) => {}
        }
        Ok(())
    }

    /// Resets the stream: bytes that have not arrived are lost.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn reset(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.connection.lock();
        if state.rejects(self.early) {
            return Ok(());
        }
        state.machine.send_stream(self.id).reset(code)?;
        drop(state);
        self.connection.wake();
        Ok(())
    }

    /// Sets the priority, 0 by default. Streams of a higher priority are sent first.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.connection.lock().machine.send_stream(self.id).set_priority(priority)
    }

    /// Waits until the peer has stopped the stream, and returns its code, or has acknowledged all of it: `None`.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + 'static {
        let (connection, id, early) = (self.connection.clone(), self.id, self.early);
        async move {
            loop {
                let end;
                let notified = {
                    let mut state = connection.lock();
                    if let Some(stopped) = stopped(&mut state, id, early) {
                        return stopped;
                    }
                    end = state.stream_ends.entry(id).or_default().clone();
                    end.notified()
                };
                notified.await;
            }
        }
    }
}

fn stopped(state: &mut ConnectionState, id: StreamId, early: bool) -> Option<Result<Option<VarInt>, StoppedError>> {
    if state.rejects(early) {
        return Some(Err(StoppedError::ZeroRttRejected));
    }
    match state.machine.send_stream(id).stopped() {
        Err(_) => Some(Ok(None)),
        Ok(Some(code)) => Some(Ok(Some(code))),
        Ok(None) => state.error.clone().map(|error| Err(StoppedError::ConnectionLost(error))),
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendStream").field(&self.id).finish()
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.writers.remove(&self.id);
        state.notify_end(self.id);
        if state.error.is_some() || state.rejects(self.early) {
            return;
        }
        let mut stream = state.machine.send_stream(self.id);
        // A peer that stopped the stream gets a reset, once.
        let sends = match stream.finish() {
            Ok(()) => true,
            Err(FinishError::Stopped(code)) => stream.reset(code).is_ok(),
            Err(FinishError::ClosedStream) => false,
        };
        drop(state);
        if sends {
            self.connection.wake();
        }
    }
}
