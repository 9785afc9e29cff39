//! The rule of prose: a sentence names its subject. Finds sentences of comments and documents that begin with a bare
//! relative clause ("Who reads slowly waits"), and nothing else about language.

use std::path::Path;

use super::source::Source;

/// Words that begin a headless clause. A question may begin with them.
const HEADLESS: [&str; 8] = ["who", "what", "whoever", "whatever", "whose", "whom", "whichever", "whomever"];

/// Prepositions that may come before one of them.
const PREPOSITIONS: [&str; 12] =
    ["of", "to", "with", "from", "by", "for", "in", "on", "at", "after", "before", "between"];

/// Verbs after ", who" that make a clause out of an actor.
const CLAUSES: [&str; 8] = ["is", "has", "does", "finds", "waits", "reads", "takes", "asks"];

/// A run of text without a break: its characters, and the line of each.
#[derive(Default)]
struct Paragraph {
    text: Vec<char>,
    lines: Vec<usize>,
}

impl Paragraph {
    fn push(&mut self, text: &str, line: usize) {
        if !self.text.is_empty() {
            self.text.push(' ');
            self.lines.push(line);
        }
        self.text.extend(text.chars());
        self.lines.resize(self.text.len(), line);
    }
}

/// The lines of `file` with a headless sentence, and a message for each.
pub(super) fn check(file: &Path, source: &Source) -> Vec<(usize, String)> {
    let paragraphs = if file.extension().is_some_and(|extension| extension == "md") {
        let lines = source.text().lines().enumerate().map(|(index, line)| (index + 1, "", line));
        paragraphs(lines)
    } else {
        let comments = source.comments().iter().map(|(line, text)| {
            let marker = ["///", "//!", "//", "/*"].into_iter().find(|marker| text.starts_with(marker)).unwrap_or("");
            (*line, marker, &text[marker.len()..])
        });
        paragraphs(comments)
    };
    let mut findings: Vec<_> = paragraphs.iter().flat_map(sentences).collect();
    findings.dedup_by_key(|(line, _)| *line);
    findings
}

/// Joins lines to paragraphs. Code between fences is left out; list items, headings and cells stand alone.
fn paragraphs<'a>(lines: impl Iterator<Item = (usize, &'static str, &'a str)>) -> Vec<Paragraph> {
    let mut paragraphs = vec![Paragraph::default()];
    let (mut last, mut fenced) = ((0, ""), false);
    for (line, marker, text) in lines {
        let text = text.trim();
        let follows = line == last.0 + 1 && marker == last.1;
        last = (line, marker);
        fenced &= follows;
        if text.starts_with("```") {
            fenced = !fenced;
            paragraphs.push(Paragraph::default());
        } else if !fenced {
            let item = text.trim_start_matches(['-', '*', '#', '>', '|', ' ']);
            if !follows || item.len() < text.len() || text.is_empty() {
                paragraphs.push(Paragraph::default());
            }
            for (cell, number) in item.split(" | ").zip(0..) {
                if number > 0 {
                    paragraphs.push(Paragraph::default());
                }
                if let Some(paragraph) = paragraphs.last_mut() {
                    paragraph.push(cell, line);
                }
            }
        }
    }
    paragraphs
}

/// The headless sentences of a paragraph.
fn sentences(paragraph: &Paragraph) -> Vec<(usize, String)> {
    let text = &paragraph.text;
    let mut findings = Vec::new();
    let mut start = 0;
    while start < text.len() {
        // A full stop ends a sentence only before a space: `a.rs` and `0.5` do not.
        let ends = |at: usize| {
            matches!(text[at], '.' | '!' | '?' | ';' | ':') && text.get(at + 1).is_none_or(|next| *next == ' ')
        };
        let end = (start..text.len()).find(|at| ends(*at)).unwrap_or(text.len());
        let sentence: String = text[start..end].iter().collect();
        let words: Vec<&str> = sentence.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        if text.get(end) != Some(&'?') && is_headless(&words) {
            let shown = words[..words.len().min(4)].join(" ");
            let leading = text[start..end].iter().take_while(|c| **c == ' ').count();
            findings.push((paragraph.lines[start + leading], format!("\"{shown} …\": name the subject")));
        }
        if let Some(at) = sentence.find(", who ")
            && let Some(verb) = sentence[at + 6..].split([' ', ',']).next()
            && CLAUSES.contains(&verb)
        {
            let before = sentence[..at].chars().count();
            findings.push((paragraph.lines[start + before], format!("\", who {verb} …\": make it its own sentence")));
        }
        start = end + 1;
    }
    findings
}

/// Whether a sentence of these words begins with a clause in place of a subject.
fn is_headless(words: &[&str]) -> bool {
    let word = |at: usize| words.get(at).map(|word| word.trim_start_matches(['(', '"', '*', '_'])).unwrap_or_default();
    let (first, second) = (word(0), word(1).to_lowercase());
    let capital = first.starts_with(char::is_uppercase);
    let first = first.to_lowercase();
    if !capital {
        return false;
    }
    if HEADLESS.contains(&first.as_str()) {
        return words.len() > 1;
    }
    let object = HEADLESS.contains(&second.as_str()) || second == "nothing";
    PREPOSITIONS.contains(&first.as_str()) && object && words.len() > 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(Path::new(file), &Source::new(text.to_owned())).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn headless_sentences_are_found() {
        let table: &[(&str, &[usize])] = &[
            ("/// Who reads slowly waits.", &[1]),
            ("/// A node. What it\n/// holds is known.", &[1]),
            ("/// It holds a\n/// title. Whoever asks\n/// gets it.", &[2]),
            ("// Of nothing that is lost, anything is told.", &[1]),
            ("fn f() {} // What was here", &[1]),
            ("/// A viewer, who waits, is served.", &[1]),
            ("//! Doc.\n//!\n//! - What is left", &[3]),
            ("/* What is left */", &[1]),
        ];
        for (text, expected) in table {
            assert_eq!(&lines("a.rs", text), expected, "{text}");
            assert_eq!(&lines("a.proto", text), expected, "{text}");
        }
        assert_eq!(lines("a.md", "# What it does\n\n| a | What is left |\n"), [1, 3]);
    }

    #[test]
    fn questions_code_and_strings_are_left_alone() {
        let table = [
            "// What is left? Nothing.",
            "/// Says what is left.",
            "/// ```\n/// What code\n/// ```",
            "const S: &str = \"What is left\";",
            "/// Waits for what\n/// Who is.rs names.",
        ];
        for text in &table[..4] {
            assert_eq!(lines("a.rs", text), Vec::<usize>::new(), "{text}");
        }
        assert_eq!(lines("a.md", "Text\n```\nWhat code\n```\n"), Vec::<usize>::new());
    }
}
