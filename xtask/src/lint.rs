//! `cargo xtask lint`: formatting, clippy, rustdoc, house rules. Owns their order; every step runs even when an
//! earlier one failed, so that one run tells all.

use anyhow::{Result, bail};

use crate::{doc, house, shell};

/// One thing that lint looks at.
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
        ("house", check_house),
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
    eprintln!("xtask: lint is clean: format, clippy, rustdoc, house");
    Ok(())
}

fn check_house() -> Result<()> {
    eprintln!("xtask: house rules");
    let findings = house::inspect(&shell::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    Ok(())
}
