//! Where verified bytes go: files that resume, and pipes.

mod file;
mod live;
mod pipe;
mod through;

use usher_proto::{Code, Fault};

pub use file::FileSink;
pub use live::LiveSink;
pub use pipe::PipeSink;
pub use through::ThroughSink;

/// Runs `work` on a blocking thread.
async fn hop<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::new(Code::Internal, format!("the thread that writes died: {error}"))),
    }
}
