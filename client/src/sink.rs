//! Where verified bytes go: files that resume, and pipes.

mod file;
mod pipe;

pub use file::FileSink;
pub use pipe::PipeSink;
