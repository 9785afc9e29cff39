//! `cargo xtask lint`: formatting, clippy, rustdoc, the project's rules. Owns their order; every step runs even when an
//! earlier one failed, so that one run reports everything.

use anyhow::{Result, bail};

use crate::{doc, rules, shell};

/// One check.
type Step = fn() -> Result<()>;

/// Runs every step and fails with the names of those that failed.
pub(crate) fn run() -> Result<()> {
    let steps: [(&str, Step); 4] = [
        ("format", || shell::run(shell::cargo().args(["fmt", "--all", "--check"]))),
        ("clippy", || {
            let mut clippy = shell::cargo();
            clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
            shell::run(&mut clippy)
        }),
        ("rustdoc", || doc::build(false)),
        ("rules", || {
            eprintln!("xtask: the project's rules");
            rules::check()
        }),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        if let Err(error) = step() {
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
