//! The house rules that no compiler knows: cores are pure, roles do not know one another, files say what they own,
//! nothing is left for later. Owns the walk over the sources; each rule lies in its own room and sees only text.

mod arrows;
mod purity;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use source::Source;

/// The crates that may not import one another.
const ROLES: [&str; 3] = ["master", "node", "client"];

/// Folders that hold no sources of ours.
const FOREIGN: [&str; 5] = ["target", ".git", "corpus", "artifacts", "node_modules"];

/// Words that leave work for later, and what to say of them.
const UNFINISHED: [(&str, &str); 3] = [
    ("todo!", "todo! is left: do it or remove it"),
    ("unimplemented!", "unimplemented! is left: implement it or refuse with an error"),
    ("#[ignore", "an ignored test: make it run or remove it"),
];

/// A place where a rule is broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Finding {
    /// Relative to the workspace's root.
    file: PathBuf,
    /// From 1.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Every finding below `root`, in the order of files and lines.
pub(crate) fn inspect(root: &Path) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    walk(root, Path::new(""), &mut files)?;
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        sources.push((file, Source::new(text)));
    }
    let mut findings = judge(&sources);
    for role in ROLES {
        let file = PathBuf::from(role).join("Cargo.toml");
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        findings.extend(arrows::check(role, &text).into_iter().map(|(line, what)| Finding {
            file: file.clone(),
            line,
            what,
        }));
    }
    findings.sort();
    Ok(findings)
}

/// What the rules say about `sources`.
fn judge(sources: &[(PathBuf, Source)]) -> Vec<Finding> {
    let tests: BTreeSet<PathBuf> =
        sources.iter().flat_map(|(file, source)| source.test_modules().map(|name| child(file, name))).collect();
    let mut findings = Vec::new();
    for (file, source) in sources {
        let mut report = |line, what| findings.push(Finding { file: file.clone(), line, what });
        if file.file_name().is_some_and(|name| name == "mod.rs") {
            report(1, "mod.rs: name the file after its module, beside the folder".to_owned());
        }
        if !source.text().starts_with("//!") {
            report(1, "the file does not open with a //! doc: say what it owns and what it refuses to know".to_owned());
        }
        for (word, what) in UNFINISHED {
            source.lines_with(word).for_each(|line| report(line, what.to_owned()));
        }
        let is_test = tests.iter().any(|test| file == test || file.starts_with(test.with_extension("")));
        if is_core(file) && !is_test {
            purity::check(source).into_iter().for_each(|(line, what)| report(line, what));
        }
    }
    findings
}

/// Whether a crate's core holds `file`: `CRATE/src/core.rs` or anything in `CRATE/src/core/`, also of a crate in `tests`.
fn is_core(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    let parts = parts.strip_prefix(&["tests"]).unwrap_or(&parts);
    matches!(parts, [_, "src", "core.rs"] | [_, "src", "core", ..])
}

/// The file of the module `name` that `file` declares.
fn child(file: &Path, name: &str) -> PathBuf {
    let is_root = file.file_name().is_some_and(|base| base == "lib.rs" || base == "main.rs");
    let folder =
        if is_root { file.parent().map(Path::to_path_buf).unwrap_or_default() } else { file.with_extension("") };
    folder.join(format!("{name}.rs"))
}

/// Collects the `.rs` files below `root/folder`, relative to `root`, in order.
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
        } else if !is_folder && path.extension().is_some_and(|extension| extension == "rs") {
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
        judge(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_house_is_in_order() {
        let findings = inspect(&crate::shell::root()).expect("the sources can be read");
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn the_walk_finds_every_crate_and_no_build_output() {
        let mut files = Vec::new();
        walk(&crate::shell::root(), Path::new(""), &mut files).expect("the sources can be read");
        for file in ["src/main.rs", "proto/src/lib.rs", "master/src/lib.rs", "xtask/src/house.rs"] {
            assert!(files.contains(&PathBuf::from(file)), "{file}");
        }
        assert!(!files.iter().any(|file| file.iter().any(|part| part == "target")));
    }

    #[test]
    fn only_what_lies_in_a_core_must_be_pure() {
        let impure = "//! doc\nuse std::fs;\n";
        let files = [
            ("node/src/core.rs", impure),
            ("node/src/core/meter.rs", impure),
            ("tests/relay/src/core/lane.rs", impure),
            ("tests/e2e/core.rs", impure),
            ("node/src/media/core.rs", impure),
            ("node/src/quic.rs", impure),
        ];
        let found = judged(&files);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("node/src/core.rs:2: "), "{found:?}");
        assert!(found[1].starts_with("node/src/core/meter.rs:2: "), "{found:?}");
        assert!(found[2].starts_with("tests/relay/src/core/lane.rs:2: "), "{found:?}");
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
