//! Destinations of verified bytes: resumable files, and pipes.

mod file;
mod live;
mod pipe;
mod player;
mod through;

use std::path::Path;

use usher_proto::{Code, Fault};

pub use file::FileSink;
pub use live::LiveSink;
pub use pipe::PipeSink;
pub(crate) use player::PlayerSink;
pub use through::ThroughSink;
pub(crate) use through::open_device;

/// The fault of a target that exists.
fn exists(target: &Path) -> Fault {
    let text = format!("{} exists; overwrite it with --force, or choose another -o", target.display());
    Fault::new(Code::Exists, text)
}

/// Runs `work` on a blocking thread.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::new(Code::Internal, format!("the writing thread panicked: {error}"))),
    }
}
