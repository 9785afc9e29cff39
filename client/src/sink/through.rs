//! A pipe, device or standard output as the system has it, written to without a copy. Knows no reader.
//!
//! Unverified bytes are written, too; see [`super::PipeSink`].

use std::{fs::File, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use usher_proto::{Code, ContentId, Fault};

use super::{pipe::fault, run_blocking};
use crate::{
    core::assembler::Chunk,
    driver::{Sink, TransferInfo},
};

/// Writes bytes in order. A reader that left is [`Code::Cancelled`].
#[derive(Debug)]
pub struct ThroughSink {
    out: Arc<File>,
}

impl ThroughSink {
    /// Writes to `out`, which blocks as its reader pleases.
    pub fn new(out: File) -> Self {
        Self { out: Arc::new(out) }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Code::Disk`] when there is none.
    pub fn stdout() -> Result<Self, Fault> {
        let out = std::io::stdout().as_fd().try_clone_to_owned();
        let out = out.map_err(|error| Fault::new(Code::Disk, format!("open standard output: {error}")))?;
        Ok(Self::new(out.into()))
    }
}

/// Opens a device or FIFO for writing, on a thread that does not hold up the end of the process: a FIFO opens when it gets
/// a reader, which may be never.
///
/// # Errors
/// [`Code::Disk`].
pub(crate) async fn open_device(path: PathBuf) -> Result<File, Fault> {
    let (sender, opened) = tokio::sync::oneshot::channel();
    let name = path.display().to_string();
    std::thread::spawn(move || {
        if sender.send(std::fs::OpenOptions::new().write(true).open(path)).is_err() {
            tracing::debug!("the output was opened after the command ended");
        }
    });
    let failed = |why: &dyn std::fmt::Display| Fault::new(Code::Disk, format!("open {name}: {why}"));
    match opened.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"the thread that opens it panicked")),
    }
}

impl Sink for ThroughSink {
    async fn begin(&mut self, _about: &TransferInfo) -> Result<u64, Fault> {
        Ok(0)
    }

    async fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> Result<T, Fault> {
        let out = Arc::clone(&self.out);
        let write = move || {
            let (chunks, made) = make();
            let bytes = chunks.iter().map(|chunk| &*chunk.data);
            usher_files::write_all(&mut &*out, bytes).map(|()| made).map_err(|error| fault(&error))
        };
        run_blocking(write).await
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}
