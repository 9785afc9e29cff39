//! `cargo xtask test`: the real parts first, then every test of the workspace. Owns the runner's choice and the
//! closing count; knows no single test.

use anyhow::{Result, bail};

use crate::busy::Busy;
use crate::parts;
use crate::shell::{self, Tee};

/// Which tests to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run them beside two busy loops: a test that counts on an idle machine fails
    #[arg(long)]
    busy: bool,
    /// Parts of test names, or options for the runner (`cargo nextest run`, else `cargo test`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filters: Vec<String>,
}

/// How many tests ended in which way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    /// Adds the counts of a runner's closing line, if `line` is one: nextest's `Summary […] 3 tests run: 2 passed, 1
    /// failed, 0 skipped`, or libtest's `test result: ok. 2 passed; 0 failed; 1 ignored; …`.
    fn add_line(&mut self, line: &str) {
        let line = shell::plain(line);
        // Libtest's line is at the margin: indented, nextest repeats it of a test that its summary counts.
        let summary = line.trim_start().strip_prefix("Summary [");
        let counts = if let Some((_, counts)) = summary.and_then(|rest| rest.split_once(" run: ")) {
            counts
        } else if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            counts
        } else {
            return;
        };
        for part in counts.split([',', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(outcome)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match outcome {
                "passed" => self.passed += number,
                "failed" | "timed" | "exec" => self.failed += number,
                "skipped" | "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs the tests. All of them run even when some fail; the last line counts them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let provided = parts::provide(&parts::FOR_TESTS)?;
    let mut count = Count::default();
    let mut failed = Vec::new();

    let nextest = shell::succeeds(shell::cargo().args(["nextest", "--version"]));
    let mut tests = shell::cargo();
    let tee = if nextest {
        tests.args(["nextest", "run"]).args(whole_workspace(&args.filters)).args(&args.filters);
        Tee::Stderr
    } else {
        // `--lib --bins --tests` leaves out nothing but the documentation tests, which have their own turn below.
        tests.arg("test").args(whole_workspace(&args.filters)).args(["--no-fail-fast", "--lib", "--bins", "--tests"]);
        pass_filters(&mut tests, &args.filters);
        Tee::Stdout
    };
    provided.equip(&mut tests);
    let _busy = if args.busy {
        // The build need not wait for its turn.
        let mut build = shell::cargo();
        build.args(if nextest { &["nextest", "run"][..] } else { &["test"] });
        shell::run(build.args(whole_workspace(&args.filters)).arg("--no-run").args(packages(&args.filters)))?;
        Some(Busy::start())
    } else {
        None
    };
    if !shell::run_watched(&mut tests, tee, |line| count.add_line(line))? {
        failed.push(shell::shown(&tests));
    }

    if args.filters.iter().any(|filter| filter.starts_with('-')) {
        eprintln!("xtask: documentation tests not run: they do not know the runner's options");
    } else {
        let mut docs = shell::cargo();
        docs.args(["test", "--workspace", "--doc", "--quiet"]);
        pass_filters(&mut docs, &args.filters);
        provided.equip(&mut docs);
        if !shell::run_watched(&mut docs, Tee::Stdout, |line| count.add_line(line))? {
            failed.push(shell::shown(&docs));
        }
    }

    eprintln!("xtask: tests and documentation tests together:");
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if !failed.is_empty() {
        bail!("`{}` failed", failed.join("` and `"));
    }
    if count.passed == 0 {
        bail!("no test ran: no name holds {:?}", args.filters);
    }
    Ok(())
}

/// `--workspace`, unless the filters name packages: cargo would then ignore those.
fn whole_workspace(filters: &[String]) -> Option<&'static str> {
    let named = |filter: &String| filter.starts_with("-p") || filter.starts_with("--package");
    (!filters.iter().any(named)).then_some("--workspace")
}

/// The packages that the filters name, as options. Other filters choose among tests that are built anyway.
fn packages(filters: &[String]) -> Vec<&str> {
    let mut packages = Vec::new();
    let mut rest = filters.iter().map(String::as_str);
    while let Some(filter) = rest.next() {
        if matches!(filter, "-p" | "--package") {
            packages.push(filter);
            packages.extend(rest.next());
        } else if filter.starts_with("-p") || filter.starts_with("--package=") {
            packages.push(filter);
        }
    }
    packages
}

/// libtest takes several filters only after `--`, and runs what matches any.
fn pass_filters(command: &mut std::process::Command, filters: &[String]) {
    let (options, names): (Vec<_>, Vec<_>) = filters.iter().partition(|filter| filter.starts_with('-'));
    command.args(options);
    if !names.is_empty() {
        command.arg("--").args(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_ahead_of_the_tests_is_of_the_named_packages() {
        let filters = ["-p", "usher", "live::", "--package=usher-node", "-j1", "-pxtask"].map(str::to_owned);
        assert_eq!(packages(&filters), ["-p", "usher", "--package=usher-node", "-pxtask"]);
        assert_eq!(packages(&["live::".to_owned()]), Vec::<&str>::new());
    }

    #[test]
    fn closing_lines_are_counted() {
        let table = [
            ("     Summary [   0.1s] 3 tests run: 2 passed, 1 failed, 4 skipped", (2, 1, 4)),
            (
                "\u{1b}[32m     Summary\u{1b}[0m [  12.034s] \u{1b}[1m9\u{1b}[0m tests run: 9 passed (1 slow), 0 skipped",
                (9, 0, 0),
            ),
            ("     Summary [ 120.0s] 5/7 tests run: 3 passed, 1 failed, 1 timed out, 2 skipped", (3, 2, 2)),
            (
                "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s",
                (5, 0, 1),
            ),
            ("test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", (5, 2, 0)),
            ("    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 136 filtered out", (0, 0, 0)),
            ("        PASS [   0.005s] crate tests::three_tests_run: 7 passed", (0, 0, 0)),
        ];
        for (line, (passed, failed, skipped)) in table {
            let mut count = Count::default();
            count.add_line(line);
            assert_eq!(count, Count { passed, failed, skipped }, "{line}");
        }
    }
}
