//! Text from peers on its way to people: which characters a terminal must not get, and their escaped form. Knows no
//! terminal.

use unicode_properties::{
    GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator},
    UnicodeGeneralCategory as _,
};

/// Most characters of a peer's text that are shown.
const MAX_SHOWN: usize = 500;

/// Whether a character changes what other characters look like, or cannot be seen: a control character (Unicode's general
/// category Cc), a formatting character such as a change of direction or a zero-width joiner (Cf), or a separator of lines
/// or paragraphs (Zl, Zp).
pub fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
}

/// A peer's text for one line of a terminal or a log: at most 500 characters of it, with invisible ones escaped like
/// `\u{202e}`.
pub fn printable(text: &str) -> String {
    printable_within(text, MAX_SHOWN)
}

/// The same with at most `most` characters of the text.
pub fn printable_within(text: &str, most: usize) -> String {
    escaped(text.chars().take(most), |c| c.escape_unicode().to_string())
}

/// A text of several lines for a terminal: invisible characters but line feeds are escaped like `\u{202e}`.
pub fn printable_lines(text: &str) -> String {
    escaped(text.chars(), |c| if c == '\n' { "\n".to_owned() } else { c.escape_unicode().to_string() })
}

/// A JSON document for a terminal: its invisible characters but line feeds, which stand in strings only, are escaped like
/// `\u202e`.
pub fn printable_json(document: &str) -> String {
    escaped(document.chars(), |c| {
        if c == '\n' {
            return "\n".to_owned();
        }
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

fn escaped(text: impl Iterator<Item = char>, escape: impl Fn(char) -> String) -> String {
    let mut shown = String::new();
    for c in text {
        if is_invisible(c) { shown.push_str(&escape(c)) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_those_of_four_categories() {
        let bad = ['\0', '\n', '\x1b', '\x7f', '\u{85}', '\u{ad}', '\u{200b}', '\u{200d}', '\u{2028}', '\u{2029}'];
        let bidi = ['\u{61c}', '\u{200e}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{feff}', '\u{e0041}'];
        for c in bad.into_iter().chain(bidi) {
            assert!(is_invisible(c), "{c:?}");
        }
        for c in [' ', '~', 'é', '\u{a0}', '\u{301}', 'א', 'ی', '字', '👩', '\u{fe0f}'] {
            assert!(!is_invisible(c), "{c:?}");
        }
    }

    #[test]
    fn a_peers_text_is_escaped_and_bounded() {
        assert_eq!(printable("a\x1b[2Jb\n\u{202e}c"), r"a\u{1b}[2Jb\u{a}\u{202e}c");
        assert_eq!(printable(&"x".repeat(9999)).len(), 500);
        assert_eq!(printable_lines("a\n\u{2028}b\r\n"), "a\n\\u{2028}b\\u{d}\n");
    }

    #[test]
    fn a_json_document_keeps_its_meaning() {
        assert_eq!(
            printable_json("{\"a\": \"\u{202e}\u{e0041}\u{7f}é\"}\n"),
            "{\"a\": \"\\u202e\\udb40\\udc41\\u007fé\"}\n"
        );
    }
}
