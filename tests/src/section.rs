//! Tables of figures, as Markdown.

use std::fmt;

/// One table, and how its figures were made.
#[derive(Debug)]
pub struct Section {
    /// Heading.
    pub title: &'static str,
    /// What was done, with what; one paragraph.
    pub how: String,
    /// Head of each column.
    pub header: Vec<&'static str>,
    /// Rows, as long as the header.
    pub rows: Vec<Vec<String>>,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.how)?;
        let head = self.header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(&self.rows).collect();
        let width =
            |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0).max(3)).collect();
        for (index, line) in lines.iter().enumerate() {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(f, "| {} |", rule.join(" | "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_markdown() {
        let section = Section {
            title: "Writes",
            how: "Made so.".to_owned(),
            header: vec!["what", "µs"],
            rows: vec![vec!["one".into(), "1.00".into()], vec!["sixteen".into(), "2".into()]],
        };
        let expected =
            "## Writes\n\nMade so.\n\n| what    | µs   |\n| ------- | ---- |\n| one     | 1.00 |\n| sixteen | 2    |\n";
        assert_eq!(section.to_string(), expected);
    }
}
