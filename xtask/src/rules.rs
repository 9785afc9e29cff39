//! The project's rules that no compiler knows: cores are pure, roles and files do not import one another in circles,
//! files say what they own and stay short, names mean one thing, prose names its subject, nothing is left for later. Owns
//! the walk over the sources; each rule has its own file and sees only text.

mod arrows;
mod circles;
mod names;
mod paths;
mod prose;
mod purity;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use source::Source;

/// The crates that may not import one another.
const ROLES: [&str; 3] = ["master", "node", "client"];

/// Folders without sources of this project.
const FOREIGN: [&str; 6] = ["target", ".git", "generated", "corpus", "artifacts", "node_modules"];

/// Lines of a product source at most: a longer file holds two ideas.
const LENGTH: usize = 400;

/// Words that leave work for later, and a message for each.
const UNFINISHED: [(&str, &str); 3] = [
    ("todo!", "todo! is left: do it or remove it"),
    ("unimplemented!", "unimplemented! is left: implement it or refuse with an error"),
    ("#[ignore", "an ignored test: make it run or remove it"),
];

/// A group of findings that can be asked for alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub(crate) enum Rule {
    /// Pure cores, arrows between roles, a doc at the head of each file, nothing left for later
    Basics,
    /// No circle of imports between the files of a crate
    Circles,
    /// A type's name means one thing in its crate
    Names,
    /// Comments and documents name the subject of each sentence
    Prose,
    /// Product sources of at most 400 lines
    Length,
}

/// A place where a rule is broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Finding {
    /// Relative to the workspace's root.
    file: PathBuf,
    /// From 1.
    line: usize,
    what: String,
    rule: Rule,
}

impl Finding {
    /// The top folder of its file; empty for a file at the root.
    fn area(&self) -> &str {
        let mut parts = self.file.iter().filter_map(|part| part.to_str());
        match (parts.next(), parts.next()) {
            (Some(area), Some(_)) => area,
            _ => "",
        }
    }
}

/// Findings to print and count.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The rule to check; all of them and a table of counts when none is named
    rule: Option<Rule>,
    /// Folder to look at, such as `node` or `client/src/cli`
    folder: Option<PathBuf>,
}

/// Prints the findings asked for. Without a rule: how many each rule has in each area.
pub(crate) fn run(args: &Args) -> Result<()> {
    let findings = inspect(&crate::shell::root())?;
    let Some(rule) = args.rule else {
        let mut counts: BTreeMap<(Rule, &str), usize> = BTreeMap::new();
        for finding in &findings {
            *counts.entry((finding.rule, finding.area())).or_default() += 1;
        }
        for ((rule, area), count) in &counts {
            println!(
                "{:<8} {:<10} {count:>5}",
                format!("{rule:?}").to_lowercase(),
                if area.is_empty() { "." } else { area }
            );
        }
        println!("{:<19} {:>5}", "together", findings.len());
        return Ok(());
    };
    let folder = args.folder.as_deref().unwrap_or_else(|| Path::new(""));
    let chosen: Vec<_> =
        findings.iter().filter(|finding| finding.rule == rule && finding.file.starts_with(folder)).collect();
    chosen.iter().for_each(|finding| println!("{finding}"));
    println!("{} findings", chosen.len());
    Ok(())
}

/// Fails with the findings of every rule.
pub(crate) fn check() -> Result<()> {
    let findings = inspect(&crate::shell::root())?;
    findings.iter().for_each(|finding| println!("{finding}"));
    anyhow::ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Every finding below `root`, in the order of files and lines.
fn inspect(root: &Path) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    walk(root, Path::new(""), &mut files)?;
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        sources.push((file, Source::new(text)));
    }
    let mut findings = judge(&sources);
    for role in ROLES.into_iter().chain(["session"]) {
        let file = PathBuf::from(role).join("Cargo.toml");
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        findings.extend(arrows::check(role, &text).into_iter().map(|(line, what)| Finding {
            file: file.clone(),
            line,
            what,
            rule: Rule::Basics,
        }));
    }
    findings.sort();
    Ok(findings)
}

/// The findings of all rules in `sources`.
fn judge(sources: &[(PathBuf, Source)]) -> Vec<Finding> {
    let tests: BTreeSet<PathBuf> =
        sources.iter().flat_map(|(file, source)| source.test_modules().map(|name| child(file, name))).collect();
    let mut findings = Vec::new();
    let is_test = |file: &Path| tests.iter().any(|test| file == test || file.starts_with(test.with_extension("")));
    for (file, source) in sources {
        let mut add = |rule, line, what| findings.push(Finding { file: file.clone(), line, what, rule });
        prose::check(file, source).into_iter().for_each(|(line, what)| add(Rule::Prose, line, what));
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let length = source.text().lines().count();
        if length > LENGTH && !is_test(file) && source_folder(file).is_some() {
            add(Rule::Length, LENGTH + 1, format!("{length} lines: split the file where it holds two ideas"));
        }
        let mut report = |line, what| add(Rule::Basics, line, what);
        if file.file_name().is_some_and(|name| name == "mod.rs") {
            report(1, "mod.rs: name the file after its module, beside the folder".to_owned());
        }
        if !source.text().starts_with("//!") {
            report(
                1,
                "the file does not open with a //! doc: say what it owns and what it leaves to others".to_owned(),
            );
        }
        for (word, what) in UNFINISHED {
            source.lines_with(word).for_each(|line| report(line, what.to_owned()));
        }
        if is_core(file) && !is_test(file) {
            purity::check(source).into_iter().for_each(|(line, what)| report(line, what));
        }
    }
    let mut crates: BTreeMap<PathBuf, Vec<(&PathBuf, &Source)>> = BTreeMap::new();
    for (file, source) in sources.iter().filter(|(file, _)| !is_test(file)) {
        if let Some(folder) = source_folder(file) {
            crates.entry(folder).or_default().push((file, source));
        }
    }
    for (folder, files) in &crates {
        let circles = circles::check(folder, files).into_iter().map(|found| (Rule::Circles, found));
        let names = names::check(files).into_iter().map(|found| (Rule::Names, found));
        findings.extend(circles.chain(names).map(|(rule, (file, line, what))| Finding { file, line, what, rule }));
    }
    findings
}

/// The `src` folder of the crate that `file` is a source of; `None` for a test, an example or a build script.
fn source_folder(file: &Path) -> Option<PathBuf> {
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    file.ancestors().filter(|folder| is_rust && folder.ends_with("src")).last().map(Path::to_path_buf)
}

/// Whether a crate's core holds `file`: `CRATE/src/core.rs` or anything in `CRATE/src/core/`, also of a crate in `tests`.
fn is_core(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    let parts = parts.strip_prefix(&["tests"]).unwrap_or(&parts);
    matches!(parts, [_, "src", "core.rs"] | [_, "src", "core", ..] | ["media", "src", ..])
}

/// The file of the module `name` that `file` declares.
fn child(file: &Path, name: &str) -> PathBuf {
    let is_root = file.file_name().is_some_and(|base| base == "lib.rs" || base == "main.rs");
    let folder =
        if is_root { file.parent().map(Path::to_path_buf).unwrap_or_default() } else { file.with_extension("") };
    folder.join(format!("{name}.rs"))
}

/// Collects the Rust, protobuf and Markdown files below `root/folder`, relative to `root`, in order.
fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = Vec::new();
    let place = root.join(folder);
    for entry in fs::read_dir(&place).with_context(|| format!("list {}", place.display()))? {
        let entry = entry.with_context(|| format!("list {}", place.display()))?;
        let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
        entries.push((folder.join(entry.file_name()), kind.is_dir()));
    }
    entries.sort();
    for (path, is_folder) in entries {
        let foreign = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| FOREIGN.contains(&name));
        if is_folder && !foreign {
            walk(root, &path, files)?;
        } else if !is_folder
            && path.extension().is_some_and(|kind| ["rs", "proto", "md"].iter().any(|one| kind == *one))
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> =
            files.iter().map(|(file, text)| (PathBuf::from(file), Source::new((*text).to_owned()))).collect();
        let findings = judge(&sources).into_iter().filter(|finding| finding.rule == Rule::Basics);
        findings.map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn the_rules_hold() {
        let findings = inspect(&crate::shell::root()).expect("the sources can be read");
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn the_walk_finds_every_crate_and_no_build_output() {
        let mut files = Vec::new();
        walk(&crate::shell::root(), Path::new(""), &mut files).expect("the sources can be read");
        for file in ["src/main.rs", "proto/src/lib.rs", "master/src/lib.rs", "xtask/src/rules.rs"] {
            assert!(files.contains(&PathBuf::from(file)), "{file}");
        }
        assert!(!files.iter().any(|file| file.iter().any(|part| part == "target")));
    }

    #[test]
    fn only_what_lies_in_a_core_must_be_pure() {
        let impure = "//! doc\nuse std::fs;\n";
        let files = [
            ("media/src/probe.rs", impure),
            ("node/src/core.rs", impure),
            ("node/src/core/meter.rs", impure),
            ("tests/relay/src/core/lane.rs", impure),
            ("tests/e2e/core.rs", impure),
            ("node/src/media/core.rs", impure),
            ("node/src/quic.rs", impure),
        ];
        let found = judged(&files);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("media/src/probe.rs:2: "), "{found:?}");
        assert!(found[1].starts_with("node/src/core.rs:2: "), "{found:?}");
        assert!(found[2].starts_with("node/src/core/meter.rs:2: "), "{found:?}");
        assert!(found[3].starts_with("tests/relay/src/core/lane.rs:2: "), "{found:?}");
    }

    #[test]
    fn a_core_s_test_modules_may_do_as_they_like() {
        let files = [
            ("node/src/core/meter.rs", "//! doc\n#[cfg(test)]\nmod tests;\n"),
            ("node/src/core/meter/tests.rs", "//! doc\nuse std::fs;\n"),
            ("node/src/core/meter/tests/more.rs", "//! doc\nuse std::fs;\n"),
            ("node/src/core/replay.rs", "//! doc\nmod tests;\n"),
        ];
        assert_eq!(judged(&files), Vec::<String>::new());
    }

    #[test]
    fn long_sources_are_found_and_long_tests_are_not() {
        let long = "//! doc\n".repeat(LENGTH + 1);
        let files = ["a/src/b.rs", "a/tests/c.rs", "a/src/d/tests.rs"].map(|file| (PathBuf::from(file), long.clone()));
        let mut sources: Vec<_> = files.into_iter().map(|(file, text)| (file, Source::new(text))).collect();
        sources.push((PathBuf::from("a/src/d.rs"), Source::new("//! doc\n#[cfg(test)]\nmod tests;\n".to_owned())));
        let found: Vec<_> = judge(&sources).into_iter().map(|finding| (finding.file, finding.rule)).collect();
        assert_eq!(found, [(PathBuf::from("a/src/b.rs"), Rule::Length)]);
    }

    #[test]
    fn files_open_with_a_doc_and_leave_nothing_for_later() {
        let files = [
            ("a/src/mod.rs", "//! doc\n"),
            ("a/src/b.rs", "// no doc\n"),
            ("a/src/c.rs", "//! todo! in a doc is a word\nfn f() { let s = \"todo!()\"; }\nfn g() { todo!() }\n"),
            ("a/tests/d.rs", "//! doc\n#[test]\n#[ignore = \"slow\"]\nfn t() { unimplemented!() }\n"),
        ];
        let found = judged(&files);
        let places: Vec<_> = found.iter().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(places, ["a/src/mod.rs:1", "a/src/b.rs:1", "a/src/c.rs:3", "a/tests/d.rs:4", "a/tests/d.rs:3"]);
    }
}
