//! `cargo xtask doc`: the documentation of the workspace's own crates, warnings as errors.

use anyhow::Result;

use crate::shell;

/// How to build the documentation.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Open it in a browser afterwards
    #[arg(long)]
    open: bool,
}

/// Builds it and prints its path.
pub(crate) fn run(args: &Args) -> Result<()> {
    build(args.open)?;
    println!("{}", shell::target_dir().join("doc/usher_proto/index.html").display());
    Ok(())
}

/// Builds it.
pub(crate) fn build(open: bool) -> Result<()> {
    let mut doc = shell::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-Dwarnings");
    if open {
        doc.arg("--open");
    }
    shell::run(&mut doc)
}
