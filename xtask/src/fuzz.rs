//! `cargo xtask fuzz`: every decoder of untrusted bytes, fuzzed for a while. Owns which fuzzer runs how; the targets
//! lie in `fuzz/fuzz_targets/`, one file each.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// The targets to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Targets to run; all of them when none is named
    targets: Vec<String>,
}

/// Runs the targets one after the other; goes on after a finding, so that one run reports all.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !shell::succeeds(shell::cargo_proxy().args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed. This installs it:\ncargo install cargo-fuzz --locked");
    }
    let folder = shell::root().join("fuzz/fuzz_targets");
    let known = targets(&folder)?;
    let chosen = if args.targets.is_empty() { known.clone() } else { args.targets.clone() };
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(name)) {
        bail!("no fuzz target {unknown}: there are {}", known.join(", "));
    }
    if chosen.is_empty() {
        bail!("no fuzz target in {}", folder.display());
    }
    let nightly = shell::succeeds(shell::cargo_proxy().args(["+nightly", "--version"]));
    let mut found = Vec::new();
    for target in &chosen {
        if let Err(error) = shell::run(&mut command(target, args.seconds, nightly)) {
            eprintln!("xtask: {error:#}");
            found.push(target.as_str());
        }
    }
    if !found.is_empty() {
        bail!("findings in {}: the inputs are in fuzz/artifacts/", found.join(", "));
    }
    println!("{} targets, {} s each, no finding: {}", chosen.len(), args.seconds, chosen.join(" "));
    Ok(())
}

/// With a nightly toolchain the address sanitizer watches too; without one, coverage still guides the fuzzer.
fn command(target: &str, seconds: u32, nightly: bool) -> Command {
    let mut fuzz = shell::cargo_proxy();
    if nightly {
        fuzz.args(["+nightly", "fuzz", "run", target]);
    } else {
        fuzz.args(["fuzz", "run", "--sanitizer", "none", target]).env("RUSTC_BOOTSTRAP", "1");
    }
    fuzz.args(["--", &format!("-max_total_time={seconds}")]);
    fuzz
}

/// The names of the targets in `folder`, in order.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sanitizer_needs_nightly() {
        let table = [
            (true, "cargo +nightly fuzz run wire -- -max_total_time=7"),
            (false, "cargo fuzz run --sanitizer none wire -- -max_total_time=7"),
        ];
        for (nightly, expected) in table {
            assert_eq!(shell::shown(&command("wire", 7, nightly)), expected);
        }
    }
}
