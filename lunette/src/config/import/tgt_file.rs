//! The syntax of `targets.conf`, as Config::General reads it: lines of a key and a value, and blocks within angle brackets.

use super::{LONGEST_FILE, read};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// A key with its value, or a block.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) key: String,
    pub(super) value: String,
    /// The place, as `LINE` or `LINE of FILE`.
    pub(super) place: String,
    /// What stands in the block, if it is one.
    pub(super) block: Option<Vec<Directive>>,
}

/// How deep files include others, and blocks each other.
const DEEPEST: usize = 8;
/// The most files.
const MOST_FILES: usize = 1024;

/// How much may still be read.
struct Left {
    files: usize,
    bytes: u64,
}

impl Left {
    fn take(&mut self, text: &str) -> Result<()> {
        let files = self.files.checked_sub(1);
        self.files = files.with_context(|| format!("more than {MOST_FILES} files are included"))?;
        let bytes = self.bytes.checked_sub(text.len() as u64);
        self.bytes =
            bytes.with_context(|| format!("the files have more than {} MiB together", LONGEST_FILE >> 20))?;
        Ok(())
    }
}

/// Reads what stands in a text, and in the files that it includes.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Directive>> {
    let mut left = Left { files: MOST_FILES, bytes: LONGEST_FILE };
    let mut lines = Vec::new();
    collect(path, text, true, 0, &mut left, &mut lines)?;
    let mut lines = lines.into_iter();
    let directives = block(&mut lines, None, 0)?;
    Ok(directives)
}

struct Line {
    place: String,
    text: String,
}

/// The lines of a file without comments, with those of the files that it includes.
fn collect(
    path: &Path,
    text: &str,
    is_first: bool,
    depth: usize,
    left: &mut Left,
    lines: &mut Vec<Line>,
) -> Result<()> {
    left.take(text)?;
    let mut joined = String::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let place = if is_first { number.to_string() } else { format!("{number} of {}", path.display()) };
        joined.push_str(without_comment(line));
        if joined.ends_with('\\') {
            joined.pop();
            continue;
        }
        let text = std::mem::take(&mut joined).trim().to_owned();
        let word = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        match (word.as_str(), text.split_once(char::is_whitespace)) {
            ("include" | "<<include", Some((_, pattern))) => {
                let pattern = pattern.trim().trim_end_matches(">>").trim_matches('"');
                ensure!(depth < DEEPEST, "line {place}: files include each other too deeply");
                for path in matching(path, pattern) {
                    let inner = read(&path)
                        .with_context(|| format!("line {place}: cannot read {}", path.display()))?;
                    collect(&path, &inner, false, depth + 1, left, lines)?;
                }
            }
            _ if !text.is_empty() => lines.push(Line { place, text }),
            _ => {}
        }
    }
    Ok(())
}

/// A comment begins with `#`, unless that is quoted by a backslash or a part of a word.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (index, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..index];
        }
        before = c;
    }
    line
}

/// The files that a pattern stands for. Only the last part may have `*` and `?`.
fn matching(from: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = from.parent().unwrap_or(Path::new("")).join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    if !name.contains(['*', '?']) {
        return match path.is_dir() {
            true => matching(&path.join("x"), "*"),
            false => vec![path],
        };
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let fits = |entry: &std::fs::DirEntry| {
        let other = entry.file_name();
        other.to_str().is_some_and(|other| !other.starts_with('.') && fits(name.as_bytes(), other.as_bytes()))
    };
    let mut paths: Vec<_> =
        entries.filter(fits).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // The place to go back to: behind the last `*`, and the first byte that it has not taken.
    let (mut at, mut of, mut back) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                back = Some((at, of));
            }
            Some(c) if *c == b'?' || *c == name[of] => (at, of) = (at + 1, of + 1),
            _ => {
                let Some((star, taken)) = back else { return false };
                (at, of) = (star, taken + 1);
                back = Some((star, taken + 1));
            }
        }
    }
    pattern[at..].iter().all(|c| *c == b'*')
}

/// What stands up to the end of the block `name`, or of everything.
fn block(lines: &mut impl Iterator<Item = Line>, name: Option<&str>, depth: usize) -> Result<Vec<Directive>> {
    let mut directives = Vec::new();
    while let Some(Line { place, text }) = lines.next() {
        if let Some(ended) = text.strip_prefix("</").and_then(|text| text.strip_suffix('>')) {
            match name {
                Some(name) if name.eq_ignore_ascii_case(ended.trim()) => return Ok(directives),
                _ => bail!("line {place}: </{}> ends nothing that has begun", ended.trim()),
            }
        }
        if let Some(head) = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
            ensure!(depth < DEEPEST, "line {place}: blocks are within each other too deeply");
            let is_empty = head.ends_with('/');
            let (key, value) = split(head.trim_end_matches('/'));
            let inner = if is_empty { Vec::new() } else { block(lines, Some(&key), depth + 1)? };
            directives.push(Directive { key, value, place, block: Some(inner) });
        } else {
            let (key, value) = split(&text);
            directives.push(Directive { key, value, place, block: None });
        }
    }
    match name {
        Some(name) => bail!("<{name}> does not end"),
        None => Ok(directives),
    }
}

/// A key and its value, between which there may be a `=`.
fn split(text: &str) -> (String, String) {
    let text = text.trim();
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (key, value) = text.split_at(end);
    let value = value.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    (key.to_owned(), quoted.unwrap_or(value).replace("\\#", "#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_blocks_are_read() {
        let text = "# all\ndefault-driver iscsi\n<Target a#b>\n  key = \"v w\" # c\n  <lu /x>\n long \\\n er\n</lu>\n</target>\n";
        let all = parse(Path::new("/x"), text).unwrap();
        let flat =
            |directive: &Directive| format!("{} {} {}", directive.place, directive.key, directive.value);
        assert_eq!(all.iter().map(flat).collect::<Vec<_>>(), ["2 default-driver iscsi", "3 Target a#b"]);
        let inner = all[1].block.as_ref().unwrap();
        assert_eq!(inner.iter().map(flat).collect::<Vec<_>>(), ["4 key v w", "5 lu /x"]);
        assert_eq!(flat(&inner[1].block.as_ref().unwrap()[0]), "7 long er");
        for (text, part) in [
            ("<a>\n", "<a> does not end"),
            ("</a>\n", "line 1: </a> ends nothing"),
            (&"<a>\n".repeat(1000), "too deeply"),
        ] {
            let error = parse(Path::new("/x"), text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn files_are_included() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("1.conf"), "a 1\n").unwrap();
        std::fs::write(path("2.conf"), "b 2\n").unwrap();
        std::fs::write(path("3.txt"), "c 3\n").unwrap();
        std::fs::write(path("me"), "include me\n").unwrap();
        let keys = |text: &str| {
            let all = parse(&path("targets.conf"), text).map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(all.into_iter().map(|one| one.key).collect::<String>())
        };
        assert_eq!(keys("include *.conf\n").as_deref(), Ok("ab"));
        assert_eq!(keys(&format!("include {}\nd\n", path("3.txt").display())).as_deref(), Ok("cd"));
        assert_eq!(keys("include none-*\n").as_deref(), Ok(""));
        assert!(keys("include me\n").unwrap_err().contains("too deeply"));
        // Each may be as long, but not all of them.
        std::fs::File::create(path("long")).unwrap().set_len(LONGEST_FILE / 2).unwrap();
        assert!(keys("include long\ninclude long\n").unwrap_err().contains("16 MiB together"));
        assert!(keys("include none\n").unwrap_err().contains("line 1: cannot read"));
    }

    #[test]
    fn patterns_take_no_time() {
        assert!(fits(b"*a*b?", b"xaxxbc") && !fits(b"*a", b"ab") && fits(b"**", b""));
        assert!(!fits(b"*a*a*a*a*a*a*a*a*b", "a".repeat(250).as_bytes()));
    }
}
