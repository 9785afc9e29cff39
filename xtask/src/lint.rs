//! `cargo xtask lint`: formatting, clippy, rustdoc, the project's rules. Owns their order; every step runs even when an
//! earlier one failed, so that one run reports everything.

use anyhow::{Result, bail};

use crate::{doc, rules, shell};

/// How much to check.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check every rule in every folder, also where it is not in force yet
    #[arg(long)]
    strict: bool,
}

/// One check.
type Step = fn(&Args) -> Result<()>;

/// Runs every step and fails with the names of those that failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let steps: [(&str, Step); 4] = [
        ("format", |_| shell::run(shell::cargo().args(["fmt", "--all", "--check"]))),
        ("clippy", |_| {
            let mut clippy = shell::cargo();
            clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
            shell::run(&mut clippy)
        }),
        ("rustdoc", |_| doc::build(false)),
        ("rules", |args| {
            eprintln!("xtask: the project's rules");
            rules::check(args.strict)
        }),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        if let Err(error) = step(args) {
            eprintln!("xtask: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    eprintln!("xtask: lint is clean: format, clippy, rustdoc, rules");
    Ok(())
}
