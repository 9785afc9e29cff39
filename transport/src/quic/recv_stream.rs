//! The half of a stream that is read from.

use std::{
    fmt,
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, ReadToEndError};
use quinn_proto::{Chunk, Chunks, ClosedStream, ReadableError, StreamId, VarInt};

use super::connection_inner::ConnectionRef;

/// The half of a stream that is read from. Dropping it before its end stops the stream with code 0.
pub struct RecvStream {
    connection: ConnectionRef,
    id: StreamId,
    /// Opened before the end of the handshake.
    early: bool,
    end: Option<End>,
}

/// How a stream ended for its reader.
#[derive(Clone, Copy)]
enum End {
    /// All bytes are read, or this side stopped the stream.
    Read,
    Reset(VarInt),
}

impl RecvStream {
    pub(super) fn new(connection: ConnectionRef, id: StreamId, early: bool) -> Self {
        Self { connection, id, early, end: None }
    }

    /// Reads the received bytes that fit and returns their number; `None` at the end of the stream.
    ///
    /// # Errors
    /// The peer reset the stream, or the connection has ended.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, ReadError> {
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let mut take = |chunks: &mut Chunks<'_>| {
            let mut filled = 0;
            while filled < buffer.len() {
                match chunks.next(buffer.len() - filled) {
                    Ok(Some(chunk)) => {
                        buffer[filled..filled + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                        filled += chunk.bytes.len();
                    }
                    end => return ((filled > 0).then_some(filled), Some(end.err())),
                }
            }
            (Some(filled), None)
        };
        poll_fn(|cx| self.poll(cx, &mut take)).await
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// As [`Self::read`], and when the stream ends before the buffer is full.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = self.read(&mut buffer[filled..]).await?;
            filled += read.ok_or(ReadExactError::FinishedEarly(filled))?;
        }
        Ok(())
    }

    /// Reads at most `most` bytes as they arrived; `None` at the end. With `ordered` they are the next in order; without, any
    /// received bytes, with their offset. A stream that was read without order cannot be read in order again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_chunk(&mut self, most: usize, ordered: bool) -> Result<Option<Chunk>, ReadError> {
        let mut take = |chunks: &mut Chunks<'_>| match chunks.next(most) {
            Ok(Some(chunk)) => (Some(chunk), None),
            end => (None, Some(end.err())),
        };
        poll_fn(|cx| self.poll_ordered(cx, ordered, &mut take)).await
    }

    /// Reads the received chunks that fit into `places` and returns their number; `None` at the end.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_chunks(&mut self, places: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if places.is_empty() {
            return Ok(Some(0));
        }
        let mut take = |chunks: &mut Chunks<'_>| {
            for (count, place) in places.iter_mut().enumerate() {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => *place = chunk.bytes,
                    end => return ((count > 0).then_some(count), Some(end.err())),
                }
            }
            (Some(places.len()), None)
        };
        poll_fn(|cx| self.poll(cx, &mut take)).await
    }

    /// Reads the remaining bytes, at most `most` of them.
    ///
    /// # Errors
    /// As [`Self::read`], and when the stream is longer.
    pub async fn read_to_end(&mut self, most: usize) -> Result<Vec<u8>, ReadToEndError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read_chunk(usize::MAX, true).await? {
            if chunk.bytes.len() > most - all.len() {
                return Err(ReadToEndError::TooLong);
            }
            all.extend_from_slice(&chunk.bytes);
        }
        Ok(all)
    }

    fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        take: &mut impl FnMut(&mut Chunks<'_>) -> Taken<T>,
    ) -> Poll<Result<Option<T>, ReadError>> {
        self.poll_ordered(cx, true, take)
    }

    fn poll_ordered<T>(
        &mut self,
        cx: &Context<'_>,
        ordered: bool,
        take: &mut impl FnMut(&mut Chunks<'_>) -> Taken<T>,
    ) -> Poll<Result<Option<T>, ReadError>> {
        match self.end {
            Some(End::Read) => return Poll::Ready(Ok(None)),
            Some(End::Reset(code)) => return Poll::Ready(Err(ReadError::Reset(code))),
            None => {}
        }
        let mut state = self.connection.lock();
        if state.rejects(self.early) {
            return Poll::Ready(Err(ReadError::ZeroRttRejected));
        }
        let mut stream = state.machine.recv_stream(self.id);
        let mut chunks = match stream.read(ordered) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream) => return Poll::Ready(Err(ReadError::ClosedStream)),
            Err(ReadableError::IllegalOrderedRead) => return Poll::Ready(Err(ReadError::IllegalOrderedRead)),
        };
        let (taken, end) = take(&mut chunks);
        if chunks.finalize().should_transmit() {
            // The peer gets more flow control credit.
            self.connection.wake();
        }
        match end {
            Some(None) => self.end = Some(End::Read),
            Some(Some(quinn_proto::ReadError::Reset(code))) => {
                self.end = Some(End::Reset(code));
                if taken.is_none() {
                    return Poll::Ready(Err(ReadError::Reset(code)));
                }
            }
            Some(Some(quinn_proto::ReadError::Blocked)) if taken.is_none() => {
                if let Some(error) = &state.error {
                    return Poll::Ready(Err(ReadError::ConnectionLost(error.clone())));
                }
                state.readers.insert(self.id, cx.waker().clone());
                return Poll::Pending;
            }
            Some(Some(quinn_proto::ReadError::Blocked)) | None => {}
        }
        Poll::Ready(Ok(taken))
    }

    /// Stops the stream: the peer learns that nothing more will be read.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.connection.lock();
        if state.rejects(self.early) {
            return Ok(());
        }
        state.machine.recv_stream(self.id).stop(code)?;
        self.end = Some(End::Read);
        drop(state);
        self.connection.wake();
        Ok(())
    }
}

/// The taken data, if any, and why no more was taken: `None` when it was enough, `Some(None)` at the end of the stream,
/// else an error.
type Taken<T> = (Option<T>, Option<Option<quinn_proto::ReadError>>);

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecvStream").field(&self.id).finish()
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.readers.remove(&self.id);
        if self.end.is_some() || state.error.is_some() || state.rejects(self.early) {
            return;
        }
        let stopped = state.machine.recv_stream(self.id).stop(VarInt::from_u32(0));
        drop(state);
        if stopped.is_ok() {
            self.connection.wake();
        }
    }
}
