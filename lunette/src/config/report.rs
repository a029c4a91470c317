//! What is wrong with a configuration, told so that it can be found and mended.

use super::mask::masked;
use std::fmt::{self, Display, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    /// It cannot be.
    Error,
    /// It can be, but is hardly meant.
    Warning,
}

/// Something in a configuration that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mistake {
    pub(crate) severity: Severity,
    /// What is wrong.
    pub(crate) what: String,
    /// What would be right.
    pub(crate) help: Option<String>,
    /// Where, if it stands somewhere.
    pub(crate) spot: Option<Spot>,
    /// Something else that has to do with it, and where that is.
    pub(crate) also: Option<(Spot, &'static str)>,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spot {
    path: PathBuf,
    /// From 1 on; 0: the file as a whole.
    line: usize,
    /// From 1 on, in characters.
    column: usize,
    /// The line, or the part of it around the place.
    shown: String,
    /// Columns of a terminal before the mark, and under it.
    mark: (usize, usize),
}

/// What is shown of a line, in characters.
const SHOWN: usize = 100;
/// What is shown of it before the place, at most.
const BEFORE: usize = 60;

impl Spot {
    /// A file as a whole.
    pub(crate) fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), line: 0, column: 0, shown: String::new(), mark: (0, 0) }
    }

    /// These bytes of the text of a file. `ends` are the places of the ends of its lines.
    pub(crate) fn of(path: &Path, text: &str, ends: &[usize], place: Range<usize>) -> Self {
        let start = text.floor_char_boundary(place.start.min(text.len()));
        let line = ends.partition_point(|end| *end < start);
        let line_start = line.checked_sub(1).and_then(|line| ends.get(line)).map_or(0, |end| end + 1);
        let line_end = ends.get(line).copied().unwrap_or(text.len());
        let end = text.floor_char_boundary(place.end.clamp(start, line_end));
        let before = text[line_start..start].chars().count();
        let cut = before.saturating_sub(BEFORE);
        let whole = masked(text[line_start..line_end].trim_end_matches('\r'));
        let shown: String = whole.chars().skip(cut).take(SHOWN).map(visible).collect();
        let marked = text[start..end].chars().count().clamp(1, SHOWN);
        let width = |skip: usize, take: usize| {
            let part = shown.chars().skip(skip).take(take);
            part.map(|c| c.width().unwrap_or(1)).sum::<usize>()
        };
        let mark = (width(0, before - cut), width(before - cut, marked).max(1));
        Self { path: path.to_owned(), line: line + 1, column: before + 1, shown, mark }
    }
}

/// The places of the ends of the lines of a text.
pub(crate) fn line_ends(text: &str) -> Vec<usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(place, _)| place).collect()
}

/// No character of a configuration does anything to a terminal.
pub(super) fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            '\u{fffd}'
        }
        c => c,
    }
}

impl Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line {
            0 => Ok(()),
            line => write!(f, ":{line}:{}", self.column),
        }
    }
}

impl Mistake {
    /// What is wrong and where, for a log.
    pub(crate) fn one_line(&self) -> String {
        match &self.spot {
            Some(spot) => format!("{spot}: {}", self.what),
            None => self.what.clone(),
        }
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let what: String = self.what.chars().map(|c| if c == '\n' { ' ' } else { visible(c) }).collect();
        writeln!(f, "{kind}: {what}")?;
        let margin = self.spot.as_ref().map_or(1, |spot| spot.line.to_string().width());
        if let Some(spot) = &self.spot {
            writeln!(f, "{:margin$}--> {spot}", "")?;
            if spot.line > 0 {
                writeln!(f, "{:margin$} |", "")?;
                writeln!(f, "{} | {}", spot.line, spot.shown.trim_end())?;
                writeln!(
                    f,
                    "{:margin$} | {:before$}{:^<marked$}",
                    "",
                    "",
                    "",
                    before = spot.mark.0,
                    marked = spot.mark.1
                )?;
            }
        }
        if let Some((spot, what)) = &self.also {
            writeln!(f, "{:margin$} = {what} {spot}", "")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{:margin$} = {help}", "")?;
        }
        Ok(())
    }
}

/// All that is wrong, in the order of files and lines.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    mistakes: Vec<Mistake>,
    /// Errors that were only counted.
    counted: usize,
}

/// The most mistakes that are told.
const MOST: usize = 50;
/// The most that are kept to choose from: to find the place of one may take a while in a file of one long line.
const KEPT: usize = 200;

impl Report {
    pub(crate) fn add(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    /// Whether there are so many that one more is only to be [counted](Self::count).
    pub(crate) fn is_full(&self) -> bool {
        self.mistakes.len() >= KEPT
    }

    /// Counts an error.
    pub(crate) fn count(&mut self) {
        self.counted += 1;
    }

    /// Whether nothing keeps the configuration from being used.
    pub(crate) fn is_usable(&self) -> bool {
        self.errors() == 0
    }

    fn errors(&self) -> usize {
        self.mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count() + self.counted
    }

    /// In the order in which they are told.
    pub(crate) fn sort(&mut self) {
        self.mistakes.sort_by(|a, b| (&a.spot, a.severity).cmp(&(&b.spot, b.severity)));
    }

    /// Those that keep nothing from working.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().filter(|mistake| mistake.severity == Severity::Warning)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.mistakes.iter().take(MOST) {
            writeln!(f, "{mistake}")?;
        }
        let mut end = String::new();
        let all = self.mistakes.len() + self.counted;
        if all > MOST {
            write!(end, "… and {} more; ", all - MOST)?;
        }
        match (self.errors(), all - self.errors()) {
            (0, 1) => write!(end, "one warning")?,
            (0, warnings) => write!(end, "{warnings} warnings")?,
            (1, _) => write!(end, "one error")?,
            (errors, _) => write!(end, "{errors} errors")?,
        }
        f.write_str(&end)
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, place: Range<usize>) -> String {
        let spot = Some(Spot::of(Path::new("/etc/x.toml"), text, &line_ends(text), place));
        let what = "no".to_owned();
        Mistake { severity: Severity::Error, what, help: None, spot, also: None }.to_string()
    }

    #[test]
    fn places_are_marked() {
        let text = "a = 1\nö = \"ü\" b\n";
        assert_eq!(at(text, 0..1), "error: no\n --> /etc/x.toml:1:1\n  |\n1 | a = 1\n  | ^\n");
        assert_eq!(at(text, 11..15), "error: no\n --> /etc/x.toml:2:5\n  |\n2 | ö = \"ü\" b\n  |     ^^^\n");
        assert!(at(text, 999..9999).contains("/etc/x.toml:3:1"));
        assert_eq!(at("界 = b", 6..7), "error: no\n --> /etc/x.toml:1:5\n  |\n1 | 界 = b\n  |      ^\n");
        // Neither a place within a character nor one over several lines.
        assert!(at(text, 7..8).contains(":2:1\n"));
        assert!(at(text, 4..14).ends_with("1 | a = 1\n  |     ^\n"));
    }

    #[test]
    fn long_lines_and_odd_characters_are_harmless() {
        let text = format!("{}\u{1b}[31m\u{202e}x{}", "é".repeat(100_000), "y".repeat(100_000));
        let place = text.find('x').unwrap();
        let told = at(&text, place..place + 50_000);
        assert!(told.contains(":1:100007\n") && told.len() < 1000, "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains('\u{202e}'));
        let line = told.lines().find(|line| line.starts_with("1 | ")).unwrap();
        let mark = told.lines().last().unwrap();
        assert_eq!(line.chars().position(|c| c == 'x'), mark.chars().position(|c| c == '^'));
    }

    #[test]
    fn not_all_of_many_are_told() {
        let mut report = Report::default();
        for line in (0..60).rev() {
            let text = "\n".repeat(60);
            let spot = Some(Spot::of(Path::new("x"), &text, &line_ends(&text), line..line));
            report.add(Mistake {
                severity: Severity::Error,
                what: format!("no {line}"),
                help: None,
                spot,
                also: None,
            });
        }
        report.sort();
        let text = report.to_string();
        assert!(text.starts_with("error: no 0\n") && text.contains("no 49\n") && !text.contains("no 50\n"));
        assert!(text.ends_with("… and 10 more; 60 errors"), "{text}");
        assert!(!report.is_usable());
    }
}
