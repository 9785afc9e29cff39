//! Sends frames on a stream, a turn at a time; counts them as they are taken, and gives up when the reader takes nothing
//! for long. A session that waits for its turn holds no buffer.

use std::{cell::Cell, io::IoSliceMut, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use quinn::WriteError;
use tokio::time;
use tracing::warn;
use usher_proto::{
    Bitrate, Code, Fault,
    buffers::{Buffer, Buffers},
    tree::{self, GROUP},
    wire::{self, HEADER, Kind},
};
use usher_transport::SendStream;

use super::flight::Sending;
use crate::{
    core::{lead, schedule::MOST_PIECE},
    house::{self, Running},
    media::OpenMedia,
};

/// Why sending ended early.
#[derive(Debug)]
pub(super) enum SendError {
    /// The client is gone.
    Gone(&'static str),
    /// The client stopped the stream.
    Stopped,
    /// The node cannot go on; the client is told the code.
    Fault(Fault),
    /// The client asked for what it does not get, and is told why.
    Refused(Fault),
}

impl From<WriteError> for SendError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Stopped,
            WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Gone("connection lost")
            }
        }
    }
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Bytes that are read for a paced session at a time, at most.
const MOUTHFUL: usize = 32 * 1024;

/// The same at least, and what the connection copies into one allocation. It holds that, and counts it as unacknowledged,
/// until its last byte is acknowledged: so several of them are in half of the least window.
const BITE: usize = 4 * 1024;

/// Buffers for a turn of groups that are kept while they are not in use: 32 MiB.
const SPARE: usize = 128;

/// What a turn of groups is read into.
pub(crate) fn buffers() -> Buffers {
    Buffers::new(MOST_PIECE, SPARE)
}

thread_local! {
    /// What viewers read into, one after the other: the connection has a copy of what it takes, and nothing else is held.
    static MOUTH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One session's way out.
pub(super) struct Sender<'a> {
    stream: &'a mut SendStream,
    sending: &'a Sending<'a>,
    running: &'a mut Running,
    buffers: &'a Buffers,
    stall: Duration,
    /// Bytes that the connection is likely to take at once.
    mouthful: usize,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        (stream, sending): (&'a mut SendStream, &'a Sending<'a>),
        running: &'a mut Running,
        buffers: &'a Buffers,
        stall: Duration,
    ) -> Self {
        Self { stream, sending, running, buffers, stall, mouthful: MOUTHFUL }
    }

    /// What comes next is not here yet: it is not for this node to send it sooner.
    pub(super) fn comes_in(&self) {
        self.running.offers();
    }

    /// Sends bytes, each part of them when its turn has come.
    pub(super) async fn send(&mut self, mut data: Bytes) -> Result<(), SendError> {
        while !data.is_empty() {
            let part = self.part(data.len());
            self.running.turn(part as u64).await;
            self.write(data.split_to(part)).await?;
        }
        Ok(())
    }

    /// Sends a short frame that must not wait for its turn.
    pub(super) async fn tell(&mut self, frame: Bytes) -> Result<(), SendError> {
        self.write(frame).await
    }

    /// Groups that a session which goes on elsewhere still sends; at most `rate` is reserved for it.
    pub(super) fn lead(&self, rate: Bitrate) -> u64 {
        lead::lead(self.running.paced().then_some(rate), self.running.bytes(), self.running.elapsed())
    }

    /// Bytes of so many that go at once.
    fn part(&self, len: usize) -> usize {
        usize::try_from(self.running.piece()).unwrap_or(len).clamp(1, len.max(1))
    }

    async fn write(&mut self, part: Bytes) -> Result<(), SendError> {
        let mut chunks = [part];
        while !chunks[0].is_empty() {
            // It leaves in each chunk what it did not take.
            let written = self.offer(&mut chunks).await?;
            self.took(written);
        }
        Ok(())
    }

    /// The connection took so many bytes.
    fn took(&mut self, bytes: u64) {
        self.running.sent(bytes);
        self.sending.wrote(bytes);
    }

    /// Waits until some of these are taken: how many bytes. Of nothing, nothing is taken when something would be.
    async fn offer(&mut self, chunks: &mut [Bytes]) -> Result<u64, SendError> {
        self.running.offers();
        match time::timeout(self.stall, self.stream.write_chunks(chunks)).await {
            Ok(Ok(written)) => Ok(written.bytes as u64),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let stalled = format!("nothing was read for {} s", self.stall.as_secs());
                Err(Fault::new(Code::Timeout, stalled).into())
            }
        }
    }

    /// Groups that one turn has room for, at least one.
    pub(super) fn step(&self) -> u64 {
        (self.running.piece() / (HEADER as u64 + GROUP)).max(1)
    }

    /// Waits for the turn of groups. Their turn comes first: what is read then leaves the processor's cache for the
    /// network, and waits nowhere.
    pub(super) async fn turn_of(&self, media: &OpenMedia, groups: &Range<u64>) {
        self.running.turn(self.part(len(media, groups)) as u64).await;
    }

    /// Reads groups whose turn it is, and sends them.
    pub(super) async fn groups(&mut self, media: &Arc<OpenMedia>, groups: Range<u64>) -> Result<(), SendError> {
        let len = len(media, &groups);
        let part = self.part(len);
        if self.running.paced() && part == len {
            return self.mouthfuls(media, groups).await;
        }
        let mut frames = read(media, groups, self.buffers.take(len)).await?;
        self.write(frames.split_to(part)).await?;
        self.send(frames).await
    }

    /// Sends groups whose turn has come in mouthfuls, each of them read when the connection takes more. A viewer takes
    /// what it plays, so that the node waits for it most of the time: with nothing in hand.
    async fn mouthfuls(&mut self, media: &Arc<OpenMedia>, groups: Range<u64>) -> Result<(), SendError> {
        for group in groups {
            let len = tree::group_len(media.size(), group);
            self.write(Bytes::copy_from_slice(&wire::header(Kind::Group, len as usize))).await?;
            let mut at = 0;
            while at < len {
                self.offer(&mut []).await?;
                let size = self.mouthful.min(usize::try_from(len - at).unwrap_or(self.mouthful));
                let taken = self.feed(media, group * GROUP + at, size).await?;
                at += taken as u64;
                // What is not taken has to be read again: so the next one is as large as this one was, or twice that
                // where all of it was taken.
                let next = if taken == size { self.mouthful * 2 } else { taken };
                self.mouthful = next.clamp(BITE, MOUTHFUL);
            }
        }
        Ok(())
    }

    /// Reads so many bytes from `offset`, and has the connection copy what it takes of them at once: how many.
    async fn feed(&mut self, media: &Arc<OpenMedia>, offset: u64, size: usize) -> Result<usize, SendError> {
        let mut mouth = MOUTH.take();
        mouth.resize(MOUTHFUL, 0);
        if media.read_cached(offset, &mut [IoSliceMut::new(&mut mouth[..size])]) < size {
            MOUTH.set(mouth);
            return self.feed_slowly(media, offset, size).await;
        }
        let mut taken = 0;
        for bite in mouth[..size].chunks(BITE) {
            let bitten = self.stream.write(bite).now_or_never().unwrap_or(Ok(0))?;
            taken += bitten;
            if bitten < bite.len() {
                break;
            }
        }
        MOUTH.set(mouth);
        self.took(taken as u64);
        Ok(taken)
    }

    /// The same where a disk may take its time. Meanwhile the room may be gone, to other sessions of the connection: what
    /// was read waits for the next, or it might be read again and again.
    async fn feed_slowly(&mut self, media: &Arc<OpenMedia>, offset: u64, size: usize) -> Result<usize, SendError> {
        // It waits for the node now, not for its reader.
        self.running.sent(0);
        let media = media.clone();
        let read = move || {
            let mut bytes = vec![0; size];
            fill(&media, offset, &mut bytes).map(|()| bytes)
        };
        let bytes = house::blocking(read).await??;
        self.write(bytes.into()).await?;
        Ok(size)
    }
}

/// Bytes of groups with their headers.
fn len(media: &OpenMedia, groups: &Range<u64>) -> usize {
    groups.clone().map(|group| HEADER + tree::group_len(media.size(), group) as usize).sum()
}

/// Reads groups into a buffer of just their size, each behind its frame's header: here and now if all of it is in
/// memory, else where a disk may take its time.
async fn read(media: &Arc<OpenMedia>, groups: Range<u64>, mut buffer: Buffer) -> Result<Bytes, Fault> {
    let offset = groups.start * GROUP;
    let mut bodies = bodies(media, groups.clone(), &mut buffer);
    let wanted: usize = bodies.iter().map(|body| body.len()).sum();
    if media.read_cached(offset, &mut bodies) == wanted {
        return Ok(buffer.freeze());
    }
    let media = media.clone();
    house::blocking(move || {
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
            // DISK would be the client's own.
            Err(Fault::new(Code::Unavailable, format!("read media: {error}")))
        }
    }
}

/// Writes the headers, and gives the places of the bodies.
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
