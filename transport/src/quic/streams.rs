//! The two halves of a stream.

use std::{
    fmt,
    future::{Future, poll_fn},
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, ReadToEndError, StoppedError, WriteError};
use quinn_proto::{Chunk, Chunks, ClosedStream, FinishError, ReadableError, StreamId, VarInt, Written};

use super::connection::{Connection, State};

/// The half that is written to. Dropped, it is finished.
pub struct SendStream {
    connection: Connection,
    id: StreamId,
    /// Opened before the handshake was over.
    early: bool,
}

impl SendStream {
    pub(super) fn new(connection: Connection, id: StreamId, early: bool) -> Self {
        Self { connection, id, early }
    }

    /// Writes some of these bytes: how many.
    ///
    /// # Errors
    /// The peer stopped the stream, the connection is over, or the stream is finished or reset.
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

    /// Hands some of these chunks on, without copying them; what was not taken stays in them.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Written, WriteError> {
        poll_fn(|cx| self.poll(cx, |stream| stream.write_chunks(chunks))).await
    }

    /// Hands a whole chunk on.
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
        let mut state = self.connection.link().lock();
        if state.rejects(self.early) {
            return Poll::Ready(Err(WriteError::ZeroRttRejected));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(WriteError::ConnectionLost(error.clone())));
        }
        state.full(false);
        let written = write(&mut state.machine.send_stream(self.id));
        match written {
            Ok(written) => {
                drop(state);
                self.connection.link().ring();
                Poll::Ready(Ok(written))
            }
            Err(quinn_proto::WriteError::Blocked) => {
                state.full(true);
                state.writers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Err(quinn_proto::WriteError::Stopped(code)) => Poll::Ready(Err(WriteError::Stopped(code))),
            Err(quinn_proto::WriteError::ClosedStream) => Poll::Ready(Err(WriteError::ClosedStream)),
        }
    }

    /// Nothing follows what was written.
    ///
    /// # Errors
    /// It is finished or reset already.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let mut state = self.connection.link().lock();
        let finished = state.machine.send_stream(self.id).finish();
        drop(state);
        match finished {
            Ok(()) => self.connection.link().ring(),
            Err(FinishError::ClosedStream) => return Err(ClosedStream::default()),
            // The peer wants none of it: then it is as good as finished.
            Err(FinishError::Stopped(_)) => {}
        }
        Ok(())
    }

    /// Ends the stream; what has not arrived will not any more.
    ///
    /// # Errors
    /// It is over already.
    pub fn reset(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.connection.link().lock();
        if state.rejects(self.early) {
            return Ok(());
        }
        state.machine.send_stream(self.id).reset(code)?;
        drop(state);
        self.connection.link().ring();
        Ok(())
    }

    /// Streams of a higher priority are sent first. It is 0 to begin with.
    ///
    /// # Errors
    /// It is over already.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.connection.link().lock().machine.send_stream(self.id).set_priority(priority)
    }

    /// Waits until the peer has stopped the stream, with its code, or has acknowledged all of it.
    ///
    /// # Errors
    /// The connection is over.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + 'static {
        let (connection, id, early) = (self.connection.clone(), self.id, self.early);
        async move {
            loop {
                let ends;
                let told = {
                    let mut state = connection.link().lock();
                    if let Some(stopped) = stopped(&mut state, id, early) {
                        return stopped;
                    }
                    ends = state.ends.entry(id).or_default().clone();
                    ends.notified()
                };
                told.await;
            }
        }
    }
}

fn stopped(state: &mut State, id: StreamId, early: bool) -> Option<Result<Option<VarInt>, StoppedError>> {
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
        let link = self.connection.link();
        let mut state = link.lock();
        state.writers.remove(&self.id);
        state.end(self.id);
        if state.error.is_some() || state.rejects(self.early) {
            return;
        }
        let mut stream = state.machine.send_stream(self.id);
        // Who stopped it is told that it is over; who was told already needs no more.
        let told = match stream.finish() {
            Ok(()) => true,
            Err(FinishError::Stopped(code)) => stream.reset(code).is_ok(),
            Err(FinishError::ClosedStream) => false,
        };
        drop(state);
        if told {
            link.ring();
        }
    }
}

/// The half that is read from. Dropped before its end, the peer is told to stop, with code 0.
pub struct RecvStream {
    connection: Connection,
    id: StreamId,
    /// Opened before the handshake was over.
    early: bool,
    over: Option<Over>,
}

/// How a stream ended for its reader.
#[derive(Clone, Copy)]
enum Over {
    /// All of it is read, or it was stopped.
    Read,
    Reset(VarInt),
}

impl RecvStream {
    pub(super) fn new(connection: Connection, id: StreamId, early: bool) -> Self {
        Self { connection, id, early, over: None }
    }

    /// Reads some bytes, as many as there are and fit: how many. `None` at the end of the stream.
    ///
    /// # Errors
    /// The peer reset the stream, or the connection is over.
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
    /// As [`Self::read`], and when the stream ends before.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = self.read(&mut buffer[filled..]).await?;
            filled += read.ok_or(ReadExactError::FinishedEarly(filled))?;
        }
        Ok(())
    }

    /// The next bytes, at most so many, as they arrived; `None` at the end. They are the next in order where `ordered`,
    /// else whatever is there, and which they are stands with them; once read without order, a stream has none.
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

    /// The next chunks, as many as there are and places for them: how many. `None` at the end.
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

    /// All that is left, if it is no more than so many bytes.
    ///
    /// # Errors
    /// As [`Self::read`], and when there is more.
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
        match self.over {
            Some(Over::Read) => return Poll::Ready(Ok(None)),
            Some(Over::Reset(code)) => return Poll::Ready(Err(ReadError::Reset(code))),
            None => {}
        }
        let link = self.connection.link();
        let mut state = link.lock();
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
            // The peer may send more.
            link.ring();
        }
        match end {
            Some(None) => self.over = Some(Over::Read),
            Some(Some(quinn_proto::ReadError::Reset(code))) => {
                self.over = Some(Over::Reset(code));
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

    /// Tells the peer that nothing more will be read.
    ///
    /// # Errors
    /// It is over already.
    pub fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let link = self.connection.link();
        let mut state = link.lock();
        if state.rejects(self.early) {
            return Ok(());
        }
        state.machine.recv_stream(self.id).stop(code)?;
        self.over = Some(Over::Read);
        drop(state);
        link.ring();
        Ok(())
    }
}

/// What was taken of a stream, and why no more: `None` when it was enough, else the end of the stream or what is in the
/// way.
type Taken<T> = (Option<T>, Option<Option<quinn_proto::ReadError>>);

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecvStream").field(&self.id).finish()
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let link = self.connection.link();
        let mut state = link.lock();
        state.readers.remove(&self.id);
        if self.over.is_some() || state.error.is_some() || state.rejects(self.early) {
            return;
        }
        let stopped = state.machine.recv_stream(self.id).stop(VarInt::from_u32(0));
        drop(state);
        if stopped.is_ok() {
            link.ring();
        }
    }
}
