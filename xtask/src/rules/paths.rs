//! Tokens, paths and `use` trees of a Rust source. Owns no rule; macros that build a path are not understood.

/// A word or a mark of the source.
pub(super) struct Token {
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
}

impl Token {
    pub(super) fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The code as words and marks; `::` is one mark.
pub(super) fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: rest[..length].to_owned(), line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// One name that a `use` tree imports.
pub(super) struct Import {
    pub(super) line: usize,
    /// The full path; it ends with `*` for a glob.
    pub(super) path: Vec<String>,
    /// The name it has in the importing module.
    pub(super) alias: String,
}

/// The imports of the `use` tree that starts at `at`, and where the tree ends.
pub(super) fn use_tree(tokens: &[Token], mut at: usize) -> (Vec<Import>, usize) {
    let mut imports = Vec::new();
    // The path so far, and the length that each open brace goes back to.
    let mut prefix: Vec<String> = Vec::new();
    let mut braces: Vec<usize> = Vec::new();
    let mut alias = None;
    let mut line = 0;
    let mut fresh = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text.as_str() {
            "::" => {}
            "as" => {
                alias = tokens.get(at).map(|name| name.text.clone());
                at += 1;
            }
            "{" => {
                braces.push(prefix.len());
                fresh = false;
            }
            mark @ ("," | "}" | ";") => {
                if fresh {
                    imports.push(import(&prefix, alias.take(), line));
                    fresh = false;
                }
                if mark == "}" {
                    braces.pop();
                }
                prefix.truncate(braces.last().copied().unwrap_or_default());
                if mark == ";" {
                    break;
                }
            }
            name => {
                prefix.push(name.to_owned());
                line = token.line;
                fresh = true;
            }
        }
    }
    (imports, at)
}

/// `a::b::self` brings in `a::b`.
fn import(path: &[String], alias: Option<String>, line: usize) -> Import {
    let path = match path {
        [path @ .., last] if last == "self" => path,
        path => path,
    };
    let alias = alias.or_else(|| path.last().cloned()).unwrap_or_default();
    Import { line, path: path.to_vec(), alias }
}

/// The path whose first name is at `at`, and where it ends.
pub(super) fn path(tokens: &[Token], mut at: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[at].text.clone()];
    at += 1;
    while let [mark, name, ..] = tokens.get(at..).unwrap_or_default() {
        if mark.text != "::" || !(name.is_name() || name.text == "*") {
            break;
        }
        path.push(name.text.clone());
        at += 2;
    }
    (path, at)
}
