//! The rule of circles: files of one crate do not import one another in a circle. A module file and its own descendants
//! are one thing here, so that edges between them do not count. Follows re-exports to the file that defines the item;
//! does not expand macros.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::paths::{Import, Token, path, tokens, use_tree};
use super::source::Source;

/// Re-exports followed at most for one name: a chain this long is a circle of re-exports.
const HOPS: usize = 16;

/// Names by which one file imports another, each with the line of its first use.
type Names = BTreeMap<String, usize>;

/// One module: a file, or a `mod name { … }` inside one.
#[derive(Default)]
struct Module {
    /// Index of its file.
    file: usize,
    /// Imported paths by local name.
    uses: HashMap<String, Vec<String>>,
    /// Paths imported with a glob.
    globs: Vec<Vec<String>>,
    /// Names of the items that it declares.
    items: BTreeSet<String>,
    /// Every path of two or more names that its code holds, imports included, with its line.
    paths: Vec<(Vec<String>, usize)>,
}

/// All modules of a crate by their path below its root.
type Modules = BTreeMap<Vec<String>, Module>;

/// The circles of a crate: for each, the file and line of its first edge, and a text that lists all its edges. `files`
/// are the crate's product files, relative to the workspace; `source_folder` is the crate's `src`.
pub(super) fn check(source_folder: &Path, files: &[(&PathBuf, &Source)]) -> Vec<(PathBuf, usize, String)> {
    let mut modules = Modules::new();
    for (index, (file, source)) in files.iter().enumerate() {
        read(module_path(source_folder, file), index, &source.shipped(), &mut modules);
    }
    let edges = edges(&modules, files.len());
    let reach: Vec<BTreeSet<usize>> = (0..files.len()).map(|from| reachable(&edges, from)).collect();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for from in 0..files.len() {
        let circle: BTreeSet<usize> = reach[from].iter().copied().filter(|to| reach[*to].contains(&from)).collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        let mut text = format!("a circle of {} files:", circle.len());
        let mut first = None;
        for ((from, to), names) in &edges {
            if circle.contains(from) && circle.contains(to) {
                let line = names.values().min().copied().unwrap_or(1);
                first.get_or_insert_with(|| (files[*from].0.clone(), line));
                let names: Vec<_> = names.keys().map(String::as_str).collect();
                let (from, to) = (files[*from].0.display(), files[*to].0.display());
                // Writing to a string cannot fail.
                let _ok = write!(text, "\n    {from}:{line} uses {to}: {}", names.join(", "));
            }
        }
        let (file, line) = first.unwrap_or_else(|| (files[from].0.clone(), 1));
        findings.push((file, line, text));
    }
    findings
}

/// The path of the module that `file` holds.
fn module_path(source_folder: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(source_folder).unwrap_or(file).with_extension("");
    let names: Vec<String> = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.len() == 1 && (names[0] == "lib" || names[0] == "main") { Vec::new() } else { names }
}

/// Enters what the code of one file imports, declares and names.
fn read(file_path: Vec<String>, file: usize, code: &str, modules: &mut Modules) {
    let tokens = tokens(code);
    let text = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
    modules.entry(file_path.clone()).or_default().file = file;
    // The inline modules around the current token, each with the depth of its brace.
    let mut inline: Vec<usize> = Vec::new();
    let (mut here, mut depth, mut at) = (file_path, 0_usize, 0);
    while let Some(token) = tokens.get(at) {
        let module = modules.entry(here.clone()).or_insert_with(|| Module { file, ..Module::default() });
        match token.text.as_str() {
            "use" => {
                let (imports, end) = use_tree(&tokens, at + 1);
                imports.into_iter().for_each(|import| module.import(import));
                at = end;
                continue;
            }
            "mod" if text(at + 2) == "{" => {
                here.push(text(at + 1).to_owned());
                depth += 1;
                inline.push(depth);
                at += 3;
                continue;
            }
            "struct" | "enum" | "trait" | "type" | "fn" | "const" | "static" | "union" => {
                module.items.insert(text(at + 1).to_owned());
            }
            "{" => depth += 1,
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                    here.pop();
                }
                depth = depth.saturating_sub(1);
            }
            _ if token.is_name() => {
                let (path, end) = path(&tokens, at);
                if path.len() > 1 {
                    module.paths.push((path, token.line));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

impl Module {
    fn import(&mut self, Import { line, path, alias }: Import) {
        if path.last().is_some_and(|name| name == "*") {
            self.globs.push(path[..path.len() - 1].to_vec());
        } else {
            self.uses.insert(alias, path.clone());
        }
        self.paths.push((path, line));
    }
}

/// Which file uses which, without edges between a file and its descendants.
fn edges(modules: &Modules, files: usize) -> BTreeMap<(usize, usize), Names> {
    // The shortest path with a file's index is the file's own; longer ones are its inline modules.
    let mut own: Vec<&[String]> = vec![&[]; files];
    for (path, module) in modules.iter().rev() {
        own[module.file] = path;
    }
    let mut edges: BTreeMap<(usize, usize), Names> = BTreeMap::new();
    for (here, module) in modules {
        for (path, line) in &module.paths {
            let Some((target, name)) = resolve(modules, here, path, HOPS) else { continue };
            let (from, to) = (own[module.file], own[modules[&target].file]);
            if !from.starts_with(to) && !to.starts_with(from) {
                let names = edges.entry((module.file, modules[&target].file)).or_default();
                names.entry(name).or_insert(*line);
            }
        }
    }
    edges
}

/// The module that defines what `path`, written in module `here`, names, and the item's name. `None` when that lies in
/// another crate, or when the path names a module itself: using a module as a prefix ties to what is behind it only.
fn resolve(modules: &Modules, here: &[String], path: &[String], hops: usize) -> Option<(Vec<String>, String)> {
    let hops = hops.checked_sub(1)?;
    let (first, mut rest) = path.split_first()?;
    let mut module = match first.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here.split_last()?.1.to_vec(),
        name => {
            let mut child = here.to_vec();
            child.push(name.to_owned());
            let target = modules.get(here)?.uses.get(name);
            if let Some(target) = target.filter(|target| target.first() != Some(first) || target.len() > path.len()) {
                let full: Vec<String> = target.iter().chain(rest).cloned().collect();
                return resolve(modules, here, &full, hops);
            }
            modules.contains_key(&child).then_some(child)?
        }
    };
    while let Some((name, after)) = rest.split_first() {
        if name == "super" {
            module.pop()?;
            rest = after;
            continue;
        }
        let mut child = module.clone();
        child.push(name.clone());
        if modules.contains_key(&child) {
            (module, rest) = (child, after);
            continue;
        }
        let held = modules.get(&module)?;
        if let Some(target) = held.uses.get(name) {
            let full: Vec<String> = target.iter().chain(after).cloned().collect();
            // An import from another crate is not this crate's affair.
            return if module == here && full == path { None } else { resolve(modules, &module, &full, hops) };
        }
        if !held.items.contains(name) {
            for glob in &held.globs {
                let full: Vec<String> = glob.iter().chain(rest).cloned().collect();
                let found = resolve(modules, &module, &full, hops);
                let declares = |(target, item): &(Vec<String>, String)| modules[target].items.contains(item);
                if let Some(found) = found.filter(declares) {
                    return Some(found);
                }
            }
        }
        return Some((module, name.clone()));
    }
    None
}

/// The files that `from` leads to, itself only through a circle.
fn reachable(edges: &BTreeMap<(usize, usize), Names>, from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        for (_, to) in edges.range((at, 0)..=(at, usize::MAX)).map(|(edge, _)| edge) {
            if found.insert(*to) {
                open.push(*to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(file, text)| (PathBuf::from(file), Source::new((*text).to_owned()))).collect();
        let files: Vec<_> = files.iter().map(|(file, source)| (file, source)).collect();
        let lines = check(Path::new("a/src"), &files).into_iter();
        lines.map(|(file, line, text)| format!("{}:{line}: {text}", file.display())).collect()
    }

    #[test]
    fn a_circle_is_found_with_the_names_that_tie_it() {
        let files = [
            ("a/src/lib.rs", "mod x;\nmod y;\nmod z;\n"),
            ("a/src/x.rs", "\nuse crate::y::{Far, Near};\nuse crate::z;\npub struct X;\n"),
            ("a/src/y.rs", "pub struct Near; pub struct Far;\nfn f(x: super::x::X) { z::g() }\n"),
            ("a/src/z.rs", "pub fn g() {}\n"),
        ];
        let text = "a/src/x.rs:2: a circle of 2 files:\n    a/src/x.rs:2 uses a/src/y.rs: Far, Near\n    \
                    a/src/y.rs:2 uses a/src/x.rs: X";
        assert_eq!(found(&files), [text]);
    }

    #[test]
    fn re_exports_lead_to_the_file_that_defines_the_item() {
        let tied = [
            ("a/src/lib.rs", "pub use x::inner::Deep;"),
            ("a/src/x.rs", "mod inner;\npub use inner::*;"),
            ("a/src/x/inner.rs", "use crate::y::Y;\npub struct Deep;"),
            ("a/src/y.rs", "use crate::Deep;\npub struct Y;"),
        ];
        assert_eq!(found(&tied).len(), 1);
        let mut globbed = tied;
        globbed[3].1 = "use crate::x;\nfn f() { x::Deep }\npub struct Y;";
        assert_eq!(found(&globbed).len(), 1);
        let mut free = tied;
        free[3].1 = "use crate::x;\nuse other::Deep;\npub struct Y;\nfn f(x: u8) { self.x.y(x) }";
        assert_eq!(found(&free), Vec::<String>::new());
    }

    #[test]
    fn parents_with_their_own_and_tests_do_not_count() {
        let files = [
            ("a/src/x.rs", "mod child;\nuse child::C;\npub struct X;"),
            ("a/src/x/child.rs", "use super::X;\npub struct C;\n#[cfg(test)]\nmod tests { use crate::y::Y; }"),
            ("a/src/y.rs", "use crate::x::child::C;\nmod inline { use super::Y; }\npub struct Y;"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }
}
