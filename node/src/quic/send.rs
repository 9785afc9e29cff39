//! Sends frames on a stream: paced, counted as they are taken, and given up when the reader takes nothing for long.
//! Owns the buffers between disk and stream: at most two of half a megabyte a session.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use quinn::{SendStream, WriteError};
use tokio::time;
use tracing::warn;
use usher_proto::{
    Code, Fault,
    tree::{self, GROUP},
    wire::{self, HEADER, Kind},
};

use crate::{
    core::session::STEP_GROUPS,
    house::{self, Running},
    media::OpenMedia,
};

/// Bytes of one buffer: a step of groups, each with its header.
const BUFFER: usize = STEP_GROUPS as usize * FRAME;

/// Buffers of one session.
const SPARE: usize = 2;

/// Bytes of a whole group's frame.
const FRAME: usize = HEADER + GROUP as usize;

/// Why sending ended early.
#[derive(Debug)]
pub(super) enum SendError {
    /// The client stopped the stream, or is gone.
    Gone(&'static str),
    /// The node cannot go on; the client is told the code.
    Fault(Fault),
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// One session's way out.
pub(super) struct Sender<'a> {
    stream: &'a mut SendStream,
    running: &'a mut Running,
    /// Bytes that the pacer is asked for at a time.
    grant: usize,
    stall: Duration,
    /// The buffers sent last; one is used again once the peer has acknowledged all of it.
    spare: VecDeque<Bytes>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(stream: &'a mut SendStream, running: &'a mut Running, grant: u64, stall: Duration) -> Self {
        // The grant counts whole groups; their headers, 5 bytes each, travel free.
        let grant = (grant / GROUP).max(1) as usize * FRAME;
        Self { stream, running, grant, stall, spare: VecDeque::with_capacity(SPARE) }
    }

    /// What comes next is not here yet: it is not for this node to send it sooner.
    pub(super) fn comes_in(&self) {
        self.running.offers();
    }

    /// Sends bytes, paced.
    pub(super) async fn send(&mut self, mut data: Bytes) -> Result<(), SendError> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(self.grant));
            self.running.pace(part.len() as u64).await;
            self.write(part).await?;
        }
        Ok(())
    }

    async fn write(&mut self, part: Bytes) -> Result<(), SendError> {
        let mut chunks = [part];
        while !chunks[0].is_empty() {
            self.running.offers();
            let written = match time::timeout(self.stall, self.stream.write_chunks(&mut chunks)).await {
                Ok(Ok(written)) => written,
                Ok(Err(WriteError::Stopped(_))) => return Err(SendError::Gone("stopped by the client")),
                Ok(Err(_)) => return Err(SendError::Gone("connection lost")),
                Err(_) => {
                    let stalled = format!("nothing was read for {} s", self.stall.as_secs());
                    return Err(Fault::new(Code::Timeout, stalled).into());
                }
            };
            // `write_chunks` leaves in each chunk what it did not take.
            self.running.sent(written.bytes as u64);
        }
        Ok(())
    }

    /// Reads groups and sends them.
    pub(super) async fn groups(&mut self, media: &Arc<OpenMedia>, groups: Range<u64>) -> Result<(), SendError> {
        let oldest = if self.spare.len() < SPARE { None } else { self.spare.pop_front() };
        let buffer = match oldest.map(Bytes::try_into_mut) {
            Some(Ok(buffer)) if buffer.capacity() >= BUFFER => buffer,
            _ => BytesMut::with_capacity(BUFFER),
        };
        let media = media.clone();
        let frames = house::blocking(move || read(&media, groups, buffer)).await??;
        self.spare.push_back(frames.clone());
        self.send(frames).await
    }
}

/// Reads groups into a buffer, each behind its frame's header.
fn read(media: &OpenMedia, groups: Range<u64>, mut buffer: BytesMut) -> Result<Bytes, Fault> {
    let mut at = 0;
    for group in groups {
        let len = tree::group_len(media.size(), group) as usize;
        let end = at + HEADER + len;
        // A buffer that is used again has its length already: nothing is zeroed twice.
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        let frame = &mut buffer[at..end];
        frame[..HEADER].copy_from_slice(&wire::header(Kind::Group, len));
        match media.read_at(group * GROUP, &mut frame[HEADER..]) {
            Ok(read) if read == len => {}
            Ok(_) => return Err(Fault::new(Code::ContentChanged, "the file became shorter")),
            Err(error) => {
                warn!(title = %media.title(), %error, "read media");
                // DISK would be the client's own.
                return Err(Fault::new(Code::Unavailable, format!("read media: {error}")));
            }
        }
        at = end;
    }
    buffer.truncate(at);
    Ok(buffer.freeze())
}
