//! A player's input: media that passes the [`Gate`], and the news of its container. Knows no player.

use std::{
    fs::File,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use usher_media::probe::Container;
use usher_proto::{Code, ContentId, Fault};

use super::{pipe::fault, run_blocking};
use crate::{
    core::{assembler::Chunk, gate::Gate},
    driver::{FeedSink, Sink, TransferInfo},
};

/// Writes a title or a feed whose first bytes are of a known container to a player.
#[derive(Debug)]
pub(crate) struct PlayerSink {
    out: Arc<File>,
    entrance: Arc<Mutex<Entrance>>,
}

/// Shared with the thread that writes.
#[derive(Debug, Default)]
struct Entrance {
    gate: Gate,
    /// Gets the container before the first byte passes.
    opened: Option<oneshot::Sender<Container>>,
}

impl Entrance {
    fn pass(&mut self, media: Vec<Bytes>) -> Result<Vec<Bytes>, Fault> {
        let passed = self.gate.handle_media(media)?;
        if let Some(container) = self.gate.container()
            && let Some(opened) = self.opened.take()
            && opened.send(container).is_err()
        {
            return Err(Fault::new(Code::Cancelled, "the player left"));
        }
        Ok(passed)
    }
}

impl PlayerSink {
    /// Writes to `out`, which blocks as its reader pleases; sends the container to `opened` before the first byte. A reader
    /// that left is [`Code::Cancelled`].
    pub(crate) fn new(out: File, opened: Option<oneshot::Sender<Container>>) -> Self {
        Self { out: Arc::new(out), entrance: Arc::new(Mutex::new(Entrance { gate: Gate::default(), opened })) }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Code::Disk`] when there is none.
    pub(crate) fn stdout() -> Result<Self, Fault> {
        let out = std::io::stdout().as_fd().try_clone_to_owned();
        let out = out.map_err(|error| Fault::new(Code::Disk, format!("open standard output: {error}")))?;
        Ok(Self::new(out.into(), None))
    }

    /// Checks at the end of the media that it was some.
    ///
    /// # Errors
    /// As [`Gate::handle_end`].
    pub(crate) fn check_end(&self) -> Result<(), Fault> {
        lock(&self.entrance).gate.handle_end()
    }
}

/// Locks the entrance, which is consistent at all times.
fn lock(entrance: &Mutex<Entrance>) -> MutexGuard<'_, Entrance> {
    entrance.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(out: &File, entrance: &Mutex<Entrance>, media: Vec<Bytes>) -> Result<(), Fault> {
    let passed = lock(entrance).pass(media)?;
    usher_files::write_all(&mut &*out, passed.iter().map(|bytes| &**bytes)).map_err(|error| fault(&error))
}

impl Sink for PlayerSink {
    async fn begin(&mut self, _about: &TransferInfo) -> Result<u64, Fault> {
        Ok(0)
    }

    async fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> Result<T, Fault> {
        let (out, entrance) = (Arc::clone(&self.out), Arc::clone(&self.entrance));
        run_blocking(move || {
            let (chunks, made) = make();
            write(&out, &entrance, chunks.into_iter().map(|chunk| chunk.data).collect()).map(|()| made)
        })
        .await
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        self.check_end()
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl FeedSink for PlayerSink {
    async fn write(&mut self, media: Vec<Bytes>) -> Result<(), Fault> {
        let (out, entrance) = (Arc::clone(&self.out), Arc::clone(&self.entrance));
        run_blocking(move || write(&out, &entrance, media)).await
    }
}
