//! Aligned tables of text for terminals, whatever their width.

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

pub use usher_proto::text::printable as clean;

/// The lines of a table: a header, then the rows, with two spaces between columns and none at the end of a line. Each
/// character counts as one column. A peer's text must be [`clean`] already.
pub fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut out = String::new();
        for ((cell, width), (_, align)) in line.iter().zip(&widths).zip(columns) {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => out.extend([cell, &gap, "  "].map(|part| part as &str)),
                Align::Right => out.extend([&gap, cell, "  "].map(|part| part as &str)),
            }
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let columns = [("TITLE", Align::Left), ("SIZE", Align::Right), ("NODES", Align::Left)];
        let rows = [["ö.mp4", "1.5 GB", "a"], ["longer.webm", "7 B", &clean("a,b\x1b[2J\n")]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        let expected = "TITLE          SIZE  NODES\nö.mp4        1.5 GB  a\nlonger.webm     7 B  a,b\\u{1b}[2J\\u{a}\n";
        assert_eq!(render(&columns, &rows), expected);
        assert_eq!(render(&columns, &[]), "TITLE  SIZE  NODES\n");
        assert_eq!(render(&columns, &[vec!["a".into()]]), "TITLE  SIZE  NODES\na\n");
    }
}
