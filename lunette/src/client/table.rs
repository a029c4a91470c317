//! Tables for people.

use std::fmt;

/// Columns that are as wide as what is in them.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// One with these headings.
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        // What others have chosen must not move the cursor of who looks at it.
        self.rows.push(cells.map(|cell| cell.replace(|c| !is_shown(c), "\u{fffd}")));
    }
}

/// Whether a character is shown as itself: those that steer a terminal or the direction of writing are not.
pub(crate) fn is_shown(c: char) -> bool {
    let steers = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !steers
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["A", "LONG"]);
        table.row(["äöü".into(), "x\u{1b}[2J\u{202e}".into()]);
        assert_eq!(table.to_string(), "A    LONG\näöü  x\u{fffd}[2J\u{fffd}\n");
    }
}
