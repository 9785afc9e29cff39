//! Anything that takes bytes in order. Independent of the reader.
//!
//! Bytes of a title that its node has not hashed yet are written as they come, before they can be verified: waiting for
//! the hashes would mean waiting for the whole title. The command fails at the end if they were wrong.

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use usher_proto::{Code, ContentId, Fault};

use super::run_blocking;
use crate::{core::assembler::Chunk, driver::Sink, driver::TransferInfo};

/// Writes bytes in order. A reader that left is [`Code::Cancelled`].
#[derive(Debug)]
pub struct PipeSink<W> {
    out: W,
}

impl<W: AsyncWrite + Send + Unpin> PipeSink<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

pub(super) fn fault(error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Fault::new(Code::Cancelled, "the reader left"),
        _ => Fault::new(Code::Disk, format!("write to the output: {error}")),
    }
}

impl<W: AsyncWrite + Send + Unpin> Sink for PipeSink<W> {
    async fn begin(&mut self, _about: &TransferInfo) -> Result<u64, Fault> {
        Ok(0)
    }

    async fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> Result<T, Fault> {
        let (chunks, made) = run_blocking(|| Ok(make())).await?;
        for chunk in chunks {
            self.out.write_all(&chunk.data).await.map_err(|error| fault(&error))?;
        }
        // A buffered writer's reader that waits should see each group as it is verified.
        self.out.flush().await.map_err(|error| fault(&error))?;
        Ok(made)
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        self.out.flush().await.map_err(|error| fault(&error))
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}
