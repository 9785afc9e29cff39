//! A Rust source as the rules see it: the same text with comments, strings and test modules blanked, line by line
//! where they were. Not a parser; it only separates code from prose.

/// A source file's text, and its code alone.
pub(super) struct Source {
    text: String,
    /// `text` with comments and the insides of literals turned to spaces. Lines are kept.
    code: String,
    /// The lines of its comments, from 1, markers included.
    comments: Vec<(usize, String)>,
}

impl Source {
    pub(super) fn new(text: String) -> Self {
        let (code, comments) = split(&text);
        Self { text, code, comments }
    }

    /// The lines of its comments, each with its number, from 1; the text begins with the comment's marker.
    pub(super) fn comments(&self) -> &[(usize, String)] {
        &self.comments
    }

    /// All of it, comments too.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The numbers, from 1, of the lines whose code holds `word`.
    pub(super) fn lines_with(&self, word: &str) -> impl Iterator<Item = usize> {
        let word = word.to_owned();
        self.code.lines().enumerate().filter(move |(_, line)| line.contains(&word)).map(|(index, _)| index + 1)
    }

    /// The names of the modules declared as `#[cfg(test)] mod NAME;`, whose text lies in a file of its own.
    pub(super) fn test_modules(&self) -> impl Iterator<Item = &str> {
        self.code.split("#[cfg(test)]").skip(1).filter_map(|rest| {
            let (visibility, rest) = rest.split_once("mod ")?;
            let visibility = visibility.trim();
            let plain = visibility.is_empty() || visibility == "pub" || visibility.starts_with("pub(");
            if !plain || visibility.contains(';') {
                return None;
            }
            let (name, end) = rest.split_at(rest.find([';', '{'])?);
            end.starts_with(';').then_some(name.trim())
        })
    }

    /// The code without what is compiled only for tests.
    pub(super) fn shipped(&self) -> String {
        let mut shipped = String::with_capacity(self.code.len());
        let mut rest = self.code.as_str();
        while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
            shipped.push_str(before);
            let end = item_end(after);
            shipped.extend(after[..end].chars().filter(|c| *c == '\n'));
            rest = &after[end..];
        }
        shipped.push_str(rest);
        shipped
    }
}

/// Where the item at the start of `code` ends: after its `;`, or after the brace that closes its first one.
fn item_end(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// `text` with every comment and the inside of every string and character literal turned to spaces, and the lines of the
/// comments.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::with_capacity(text.len()), Vec::new());
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = prose_end(&chars, at);
        if end > at {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            if chars[at] == '/' {
                let comment: String = chars[at..end].iter().collect();
                comments.extend((line..).zip(comment.lines().map(str::to_owned)));
            }
            line += chars[at..end].iter().filter(|c| **c == '\n').count();
            at = end;
        } else {
            code.push(chars[at]);
            line += usize::from(chars[at] == '\n');
            at += 1;
        }
    }
    (code, comments)
}

/// The end of the comment or literal that starts at `at`; `at` itself if none does.
fn prose_end(chars: &[char], at: usize) -> usize {
    let peek = |ahead: usize| chars.get(at + ahead).copied();
    let within_word = at > 0 && chars.get(at - 1).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match (peek(0), peek(1)) {
        (Some('/'), Some('/')) => line_end(chars, at),
        (Some('/'), Some('*')) => comment_end(chars, at),
        (Some('"'), _) => string_end(chars, at + 1),
        (Some('r'), Some('"' | '#')) if !within_word => raw_string_end(chars, at, at + 1),
        (Some('b' | 'c'), Some('r')) if !within_word => raw_string_end(chars, at, at + 2),
        // A character ends two or more places on; anything else after a tick is a lifetime.
        (Some('\''), Some('\\')) => {
            (at + 3..chars.len()).find(|end| chars[*end] == '\'').map_or(chars.len(), |end| end + 1)
        }
        (Some('\''), Some(_)) if peek(2) == Some('\'') => at + 3,
        _ => at,
    }
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|end| chars[*end] == '\n').unwrap_or(chars.len())
}

/// Block comments nest.
fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of a string whose inside starts at `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of a raw string whose hashes start at `hashes`; `at` if it is a raw identifier or no string at all.
fn raw_string_end(chars: &[char], at: usize, hashes: usize) -> usize {
    let count = chars.get(hashes..).unwrap_or_default().iter().take_while(|c| **c == '#').count();
    let open = hashes + count;
    if chars.get(open) != Some(&'"') {
        return at;
    }
    (open + 1..chars.len())
        .find(|end| {
            chars[*end] == '"' && chars.iter().skip(end + 1).take(count).filter(|c| **c == '#').count() == count
        })
        .map_or(chars.len(), |end| end + 1 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_told_from_code() {
        let table = [
            ("a // x\nb", "a     \nb"),
            ("a /* x /* y */\n z */ b", "a             \n      b"),
            ("f(\"x\\\"y\") + 1", "f(      ) + 1"),
            ("f(r#\"x\"y\"#) + 1", "f(        ) + 1"),
            ("f(br\"x\\\") + 1", "f(      ) + 1"),
            ("r#type + 'a' + '\\'' + '\"' + x::<'a>", "r#type +     +      +     + x::<'a>"),
            ("char::from(b'\"'); \"x\"", "char::from(b   );    "),
        ];
        for (text, expected) in table {
            assert_eq!(split(text).0, expected, "{text}");
        }
    }

    #[test]
    fn comments_keep_their_lines_and_markers() {
        let (_, comments) = split("//! a\nf(\"// b\n\") // c\n/* d\n e */ g");
        let expected =
            [(1, "//! a"), (3, "// c"), (4, "/* d"), (5, " e */")].map(|(line, text)| (line, text.to_owned()));
        assert_eq!(comments, expected);
    }

    #[test]
    fn what_is_compiled_for_tests_alone_is_left_out() {
        let text =
            "use a;\n#[cfg(test)]\nuse b;\nfn f() {}\n#[cfg(test)]\nmod tests {\n    mod c { fn g() {} }\n}\nuse d;\n";
        let source = Source::new(text.to_owned());
        assert_eq!(source.shipped(), "use a;\n\n\nfn f() {}\n\n\n\n\nuse d;\n");
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_named() {
        let text = "//! mod no;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod inline { }\n#[cfg(test)]\npub(crate) mod more ;\nmod other;";
        let source = Source::new(text.to_owned());
        assert_eq!(source.test_modules().collect::<Vec<_>>(), ["tests", "more"]);
    }
}
