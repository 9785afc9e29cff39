//! The rule of names: a type's name means one thing in its crate. Owns the few names that every module may define anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::paths::tokens;
use super::source::Source;

/// Names that mean the same thing wherever they stand, by convention of the language or of its libraries: the error and
/// result of a module's one operation, the arguments of one command, the settings of one part.
const CONVENTIONAL: [&str; 6] = ["Error", "Result", "Args", "Settings", "Config", "Service"];

/// The type names that a crate defines more than once: where each is defined again, and the text to report.
pub(super) fn check(files: &[(&PathBuf, &Source)]) -> Vec<(PathBuf, usize, String)> {
    let mut defined: BTreeMap<String, Vec<(&PathBuf, usize)>> = BTreeMap::new();
    for (file, source) in files {
        for (name, line) in types(&source.shipped()) {
            if !CONVENTIONAL.contains(&name.as_str()) {
                defined.entry(name).or_default().push((file, line));
            }
        }
    }
    let mut findings = Vec::new();
    for (name, places) in defined {
        let Some(((first, at), again)) = places.split_first() else { continue };
        for (file, line) in again {
            let text = format!("a second type named {name}: the first is in {}:{at}", first.display());
            findings.push(((*file).clone(), *line, text));
        }
    }
    findings
}

/// Structs, enums, traits and type aliases of `code`, with their lines. A `type` inside an `impl` or a trait belongs to it.
fn types(code: &str) -> Vec<(String, usize)> {
    let tokens = tokens(code);
    let mut types = Vec::new();
    // For each open brace, whether it is an `impl`'s or a trait's.
    let mut braces: Vec<bool> = Vec::new();
    let mut opens_members = false;
    for (index, token) in tokens.iter().enumerate() {
        let next = tokens.get(index + 1).filter(|next| next.is_name());
        let begins_item =
            index == 0 || tokens.get(index - 1).is_some_and(|last| !matches!(last.text.as_str(), "." | "$"));
        match (token.text.as_str(), next) {
            ("{", _) => braces.push(std::mem::take(&mut opens_members)),
            ("}", _) => drop(braces.pop()),
            (";", _) => opens_members = false,
            // `-> impl Trait` opens no members; its brace, if any, is a function's.
            ("impl", _) if index == 0 || tokens.get(index - 1).is_some_and(|last| ends_item(&last.text)) => {
                opens_members = true;
            }
            (kind @ ("struct" | "enum" | "trait" | "type"), Some(name)) if begins_item => {
                let member = kind == "type" && braces.last().copied().unwrap_or_default();
                if !member {
                    types.push((name.text.clone(), name.line));
                }
                opens_members |= kind == "trait";
            }
            _ => {}
        }
    }
    types
}

/// Whether an item may begin after this mark or word.
fn ends_item(text: &str) -> bool {
    matches!(text, ";" | "{" | "}" | "]" | "unsafe" | "default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_from_members_and_words() {
        let code = "pub struct A; enum B { C }\ntrait D { type E; fn f() -> impl Fn(); }\nimpl D for A { type E = u8; }\n\
                    type G = u8; fn h() -> impl Copy { struct I; }\nfn g(r#type: u8) { a.r#type }";
        let names: Vec<_> = types(code).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "D", "G", "I"]);
    }

    #[test]
    fn a_second_definition_is_found_and_conventional_names_and_tests_are_not() {
        let source = |text: &str| Source::new(text.to_owned());
        let one = (PathBuf::from("a/src/x.rs"), source("struct State;\nstruct Error;\n"));
        let two = (
            PathBuf::from("a/src/y.rs"),
            source("enum Error {}\n\nenum State {}\n#[cfg(test)]\nmod tests { struct State; }"),
        );
        let found = check(&[(&one.0, &one.1), (&two.0, &two.1)]);
        let text = "a second type named State: the first is in a/src/x.rs:1".to_owned();
        assert_eq!(found, [(two.0, 3, text)]);
    }
}
