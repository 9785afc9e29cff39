//! Writes the frames of a title to a stream, in turns of the scheduler. Counts accepted bytes, and fails when the
//! reader takes nothing for long. A session that waits for its turn holds no buffer.

use std::{cell::Cell, io::IoSliceMut, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time;
use tracing::warn;
use usher_proto::{
    Bitrate, Code, Fault,
    buffers::{Buffer, Buffers},
    tree::{self, GROUP},
    wire::{self, HEADER, Kind},
};
use usher_transport::SendStream;

use super::ending::SessionError;
use crate::{
    context::{self, ActiveSession},
    core::handover,
    media::OpenMedia,
    send_window::WindowShare,
};

/// Maximum number of bytes that are read for a paced session at a time.
const READ_MAX: usize = 32 * 1024;

/// Minimum of the same, and the size of one allocation into which the connection copies. It counts as unacknowledged
/// until its last byte is acknowledged, so several of them fit into half of the least window.
const COPY_CHUNK: usize = 4 * 1024;

thread_local! {
    /// Buffer into which paced sessions of this thread read. The connection copies what it accepts, so nothing else is
    /// held.
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Writes the frames of one session.
pub(super) struct FrameWriter<'a> {
    stream: &'a mut SendStream,
    share: &'a WindowShare<'a>,
    active: &'a mut ActiveSession,
    buffers: &'a Buffers,
    stall: Duration,
    /// Bytes that the connection probably accepts at once.
    read_len: usize,
}

impl<'a> FrameWriter<'a> {
    pub(super) fn new(
        (stream, share): (&'a mut SendStream, &'a WindowShare<'a>),
        active: &'a mut ActiveSession,
        buffers: &'a Buffers,
        stall: Duration,
    ) -> Self {
        Self { stream, share, active, buffers, stall, read_len: READ_MAX }
    }

    /// Marks that the session waits for its client to take or to request something.
    pub(super) fn await_reader(&self) {
        self.active.await_reader();
    }

    /// Marks that the session waits for bytes that are not here yet.
    pub(super) fn await_source(&self) {
        self.active.await_source();
    }

    /// Sends `data`, each quantum of it in a turn.
    pub(super) async fn send(&mut self, mut data: Bytes) -> Result<(), SessionError> {
        while !data.is_empty() {
            let part = self.part(data.len());
            self.active.turn(part as u64).await;
            self.write(data.split_to(part)).await?;
        }
        Ok(())
    }

    /// Sends a short frame without waiting for a turn.
    pub(super) async fn send_now(&mut self, frame: Bytes) -> Result<(), SessionError> {
        self.write(frame).await
    }

    /// Number of groups that a moving session still sends; `rate` is its reserved rate.
    pub(super) fn lead(&self, rate: Bitrate) -> u64 {
        handover::groups(self.active.paced().then_some(rate), self.active.bytes(), self.active.elapsed())
    }

    /// Bytes of `len` that are sent in one turn.
    fn part(&self, len: usize) -> usize {
        usize::try_from(self.active.quantum()).unwrap_or(len).clamp(1, len.max(1))
    }

    async fn write(&mut self, part: Bytes) -> Result<(), SessionError> {
        let mut chunks = [part];
        while !chunks[0].is_empty() {
            // `write_chunks` leaves the rest in each chunk.
            let written = self.offer(&mut chunks).await?;
            self.took(written);
        }
        Ok(())
    }

    /// Counts bytes that the connection accepted.
    fn took(&mut self, bytes: u64) {
        self.active.sent(bytes);
        self.share.wrote(bytes);
    }

    /// Waits until the connection accepts some of the chunks, and returns how many bytes. An empty slice waits for send
    /// capacity and returns 0.
    async fn offer(&mut self, chunks: &mut [Bytes]) -> Result<u64, SessionError> {
        self.active.await_reader();
        match time::timeout(self.stall, self.stream.write_chunks(chunks)).await {
            Ok(Ok(written)) => Ok(written.bytes as u64),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let stalled = format!("nothing was read for {} s", self.stall.as_secs());
                Err(Fault::new(Code::Timeout, stalled).into())
            }
        }
    }

    /// Number of groups in one turn, at least one.
    pub(super) fn groups_per_turn(&self) -> u64 {
        (self.active.quantum() / (HEADER as u64 + GROUP)).max(1)
    }

    /// Waits for a turn for these groups. The groups are read after that, so that they go from the cache of the
    /// processor to the network.
    pub(super) async fn turn_of(&self, media: &OpenMedia, groups: &Range<u64>) {
        self.active.turn(self.part(len(media, groups)) as u64).await;
    }

    /// Reads groups, after their turn has come, and sends them.
    pub(super) async fn groups(&mut self, media: &Arc<OpenMedia>, groups: Range<u64>) -> Result<(), SessionError> {
        let len = len(media, &groups);
        let part = self.part(len);
        if self.active.paced() && part == len {
            return self.read_paced(media, groups).await;
        }
        let mut frames = read(media, groups, self.buffers.take(len)).await?;
        self.write(frames.split_to(part)).await?;
        self.send(frames).await
    }

    /// Sends groups of a paced session, whose turn has come. Reads them in small parts when the connection has
    /// capacity. A viewer takes bytes at the speed of playback, so the session mostly waits for it, with no buffer.
    async fn read_paced(&mut self, media: &Arc<OpenMedia>, groups: Range<u64>) -> Result<(), SessionError> {
        for group in groups {
            let len = tree::group_len(media.size(), group);
            self.write(Bytes::copy_from_slice(&wire::header(Kind::Group, len as usize))).await?;
            let mut at = 0;
            while at < len {
                self.offer(&mut []).await?;
                let size = self.read_len.min(usize::try_from(len - at).unwrap_or(self.read_len));
                let taken = self.feed(media, group * GROUP + at, size).await?;
                at += taken as u64;
                // Bytes that were not accepted must be read again: so the next read has the accepted size, or twice
                // that if all was accepted.
                let next = if taken == size { self.read_len * 2 } else { taken };
                self.read_len = next.clamp(COPY_CHUNK, READ_MAX);
            }
        }
        Ok(())
    }

    /// Reads `size` bytes from `offset`, and lets the connection copy what it accepts at once. Returns that number.
    async fn feed(&mut self, media: &Arc<OpenMedia>, offset: u64, size: usize) -> Result<usize, SessionError> {
        let mut buffer = READ_BUFFER.take();
        buffer.resize(READ_MAX, 0);
        if media.read_cached(offset, &mut [IoSliceMut::new(&mut buffer[..size])]) < size {
            READ_BUFFER.set(buffer);
            return self.feed_slowly(media, offset, size).await;
        }
        let mut taken = 0;
        for chunk in buffer[..size].chunks(COPY_CHUNK) {
            let copied = self.stream.write(chunk).now_or_never().unwrap_or(Ok(0))?;
            taken += copied;
            if copied < chunk.len() {
                break;
            }
        }
        READ_BUFFER.set(buffer);
        self.took(taken as u64);
        Ok(taken)
    }

    /// The same from a disk that may be slow. Meanwhile other sessions of the connection may use its capacity, so all
    /// bytes are kept until they are accepted, or they might be read again and again.
    async fn feed_slowly(&mut self, media: &Arc<OpenMedia>, offset: u64, size: usize) -> Result<usize, SessionError> {
        // The session waits for the node now, not for its reader.
        self.active.sent(0);
        let media = media.clone();
        let read = move || {
            let mut bytes = vec![0; size];
            fill(&media, offset, &mut bytes).map(|()| bytes)
        };
        let bytes = context::blocking(read).await??;
        self.write(bytes.into()).await?;
        Ok(size)
    }
}

/// Bytes of groups with their headers.
fn len(media: &OpenMedia, groups: &Range<u64>) -> usize {
    groups.clone().map(|group| HEADER + tree::group_len(media.size(), group) as usize).sum()
}

/// Reads groups into a buffer of exactly their size, each behind the header of its frame: at once if all of it is in
/// memory, else on a blocking thread.
async fn read(media: &Arc<OpenMedia>, groups: Range<u64>, mut buffer: Buffer) -> Result<Bytes, Fault> {
    let offset = groups.start * GROUP;
    let mut bodies = bodies(media, groups.clone(), &mut buffer);
    let wanted: usize = bodies.iter().map(|body| body.len()).sum();
    if media.read_cached(offset, &mut bodies) == wanted {
        return Ok(buffer.freeze());
    }
    let media = media.clone();
    context::blocking(move || {
        let mut at = offset;
        for mut body in self::bodies(&media, groups, &mut buffer) {
            fill(&media, at, &mut body)?;
            at += body.len() as u64;
        }
        Ok(buffer.freeze())
    })
    .await?
}

/// Reads until `bytes` is full. Blocks.
fn fill(media: &OpenMedia, offset: u64, bytes: &mut [u8]) -> Result<(), Fault> {
    match media.read_at(offset, bytes) {
        Ok(read) if read == bytes.len() => Ok(()),
        Ok(_) => Err(Fault::new(Code::ContentChanged, "the file became shorter")),
        Err(error) => {
            warn!(title = %media.title(), %error, "read media");
            // DISK would mean a disk of the client.
            Err(Fault::new(Code::Unavailable, format!("read media: {error}")))
        }
    }
}

/// Writes the headers, and returns the slices for the bodies.
fn bodies<'a>(media: &OpenMedia, groups: Range<u64>, buffer: &'a mut Buffer) -> Vec<IoSliceMut<'a>> {
    let mut rest = buffer.bytes_mut();
    let mut bodies = Vec::with_capacity(usize::try_from(groups.end - groups.start).unwrap_or_default());
    for group in groups {
        let len = tree::group_len(media.size(), group) as usize;
        let (frame, after) = rest.split_at_mut(HEADER + len);
        let (header, body) = frame.split_at_mut(HEADER);
        header.copy_from_slice(&wire::header(Kind::Group, len));
        bodies.push(IoSliceMut::new(body));
        rest = after;
    }
    bodies
}
