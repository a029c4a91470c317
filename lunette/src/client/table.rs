//! Tables for people.

use std::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that are as wide as what is in them.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// Columns that are left out where there is no room for all, the first one first.
    spared: &'static [usize],
    /// They are, only where there is no room for all even if the others are as narrow as can be.
    is_spared_last: bool,
}

/// No column becomes narrower than this, or than its heading, however narrow the terminal is.
const NARROWEST: usize = 8;
/// What stands between two columns.
const GAP: usize = 2;

impl<const N: usize> Table<N> {
    /// One with these headings.
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)], spared: &[], is_spared_last: false }
    }

    /// The same, which leaves out these columns, one after the other, rather than parts of what stands in others.
    pub(crate) fn sparing(self, spared: &'static [usize]) -> Self {
        Self { spared, ..self }
    }

    /// The same, which leaves them out only when nothing can be shortened any more.
    pub(crate) fn sparing_at_last(self, spared: &'static [usize]) -> Self {
        Self { spared, is_spared_last: true, ..self }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        // What others have chosen must not move the cursor of who looks at it.
        self.rows.push(cells.map(|cell| cell.replace(|c| !is_shown(c), "\u{fffd}")));
    }

    /// The lines. Where there are only so many columns of a terminal, the widest cells lose their middle.
    pub(crate) fn lines(&self, terminal: Option<usize>) -> String {
        let wanted =
            |column: usize| self.rows.iter().map(|row| row[column].width()).max().unwrap_or_default();
        let mut widths: Vec<(usize, usize)> = (0..N).map(|column| (column, wanted(column))).collect();
        if let Some(terminal) = terminal {
            let mut spared = self.spared.iter();
            while room(terminal, &widths) < self.total(&widths) {
                let Some(column) = spared.next() else { break };
                widths.retain(|(other, _)| other != column);
            }
            let room = room(terminal, &widths);
            self.fit(&mut widths, room);
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, width) in &widths {
                let cell = shortened(&row[*column], *width);
                let blanks = width.saturating_sub(cell.width()) + GAP;
                let _ = write!(line, "{cell}{:blanks$}", "");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// How narrow a column that wants this width can become.
    fn least(&self, column: usize, width: usize) -> usize {
        let heading = self.rows.first().map_or(0, |row| row[column].width());
        heading.max(NARROWEST).min(width)
    }

    /// How wide columns are before any is left out.
    fn total(&self, widths: &[(usize, usize)]) -> usize {
        let of = |(column, width): &(usize, usize)| match self.is_spared_last {
            true => self.least(*column, *width),
            false => *width,
        };
        widths.iter().map(of).sum()
    }

    /// Makes all columns shorter that are longer than some length, which is as long as it can be.
    fn fit(&self, widths: &mut [(usize, usize)], room: usize) {
        let longest = widths.iter().map(|(_, width)| *width).max().unwrap_or_default();
        let at_most = |most: usize| {
            let width =
                |(column, width): &(usize, usize)| (*width).min(most.max(self.least(*column, *width)));
            widths.iter().map(width).collect::<Vec<_>>()
        };
        let most = (0..=longest).rev().find(|most| at_most(*most).into_iter().sum::<usize>() <= room);
        let fitting = at_most(most.unwrap_or(0));
        widths.iter_mut().zip(fitting).for_each(|((_, width), fitting)| *width = fitting);
    }
}

/// What a terminal leaves for columns of these widths.
fn room(terminal: usize, widths: &[(usize, usize)]) -> usize {
    terminal.saturating_sub(GAP * widths.len().saturating_sub(1))
}

/// A text that is at most so wide: both ends of it, if there is no room for all.
fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let tail_room = width.saturating_sub(1) / 2;
    let taken = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut sum = 0;
        chars
            .take_while(|c| {
                sum += c.width().unwrap_or(0);
                sum <= room
            })
            .collect::<Vec<char>>()
    };
    let tail = taken(&mut text.chars().rev(), tail_room);
    let head = taken(&mut text.chars(), width.saturating_sub(1 + tail_room));
    head.into_iter().chain(['\u{2026}']).chain(tail.into_iter().rev()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["A", "LONG"]);
        table.row(["äöü".into(), "x\u{1b}[2J\u{202e}".into()]);
        table.row(["\u{6f22}\u{5b57}".into(), "y".into()]);
        assert_eq!(table.lines(None), "A     LONG\näöü   x\u{fffd}[2J\u{fffd}\n\u{6f22}\u{5b57}  y\n");
    }

    #[test]
    fn what_matters_less_is_left_out_first() {
        let mut table = Table::new(["NAME", "LESS", "LEAST"]).sparing(&[2, 1]);
        table.row(["a-long-name".into(), "b".into(), "c".into()]);
        let headings = |columns| table.lines(Some(columns)).lines().next().unwrap_or_default().to_owned();
        assert_eq!(
            [headings(24), headings(23), headings(16)],
            ["NAME         LESS  LEAST", "NAME         LESS", "NAME"]
        );
        assert!(table.lines(Some(8)).ends_with("\na-lo\u{2026}ame\n"), "{}", table.lines(Some(8)));
    }

    #[test]
    fn narrow_terminals_show_both_ends() {
        let mut table = Table::new(["N", "TARGET", "PATH"]);
        table.row(["1".into(), "iqn.2026-11.org.example:disks".into(), "/srv/images/a.img".into()]);
        for columns in [80, 53, 50, 40, 30] {
            let text = table.lines(Some(columns));
            assert!(text.lines().all(|line| line.width() <= columns), "{columns}:\n{text}");
            assert_eq!(text.contains('\u{2026}'), columns < 51, "{text}");
        }
        let at_40 = table.lines(Some(40));
        assert!(at_40.ends_with("\n1  iqn.2026-\u{2026}le:disks  /srv/images/a.img\n"), "{at_40}");
        // There is an end to it.
        assert!(table.lines(Some(5)).contains("1  iqn.\u{2026}sks  /srv\u{2026}img"));
    }
}
