//! The text of a configuration file, so that errors can tell the place they speak of.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A file and what is written in it.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

/// Something in a file that cannot be.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{}:{line}:{column}: {what}", .path.display())]
pub(crate) struct Mistake {
    path: PathBuf,
    /// From 1 on.
    line: usize,
    /// From 1 on, in characters.
    column: usize,
    what: String,
}

impl Source {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// What the text means.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Mistake> {
        toml::from_str(&self.text)
            .map_err(|error| self.mistake(error.span().unwrap_or_default(), clean(error.message())))
    }

    /// A mistake at these bytes of the text.
    pub(crate) fn mistake(&self, place: Range<usize>, what: impl Into<String>) -> Mistake {
        let before = self.text.get(..place.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Mistake {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    /// A path that is written in the file: a relative one begins where the file is.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// A message in one line, without the text that stands where something else should: it may be a secret.
fn clean(message: &str) -> String {
    // Some messages have a second line, with what would be right.
    let message = message.trim().replace('\n', "; ");
    let quoted =
        message.strip_prefix("invalid type: string \"").and_then(|rest| rest.rsplit_once("\", expected "));
    match quoted {
        Some((_, expected)) => format!("invalid type: string, expected {expected}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "/etc/x.toml".into(), text: text.into() }
    }

    #[test]
    fn mistakes_tell_their_line_and_column() {
        let source = source("a = 1\nö = \"ü\" b\n");
        let at = |start| source.mistake(start..start, "no").to_string();
        assert_eq!(at(0), "/etc/x.toml:1:1: no");
        assert_eq!(at(6), "/etc/x.toml:2:1: no");
        assert_eq!(at(14), "/etc/x.toml:2:7: no");
        assert_eq!(at(999), "/etc/x.toml:3:1: no");
        let error = source.parse::<toml::Table>().unwrap_err().to_string();
        assert!(error.starts_with("/etc/x.toml:2:") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn what_is_written_in_the_wrong_place_is_not_told() {
        let source = source("a = [\"top, \\\"secret\\\"\"]\n");
        #[derive(Debug, serde::Deserialize)]
        struct Tables {
            #[expect(dead_code, reason = "it is not read that far")]
            a: Vec<Inner>,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Inner {}
        let error = source.parse::<Tables>().unwrap_err().to_string();
        assert_eq!(error, "/etc/x.toml:1:6: invalid type: string, expected struct Inner");
    }

    #[test]
    fn relative_paths_begin_where_the_file_is() {
        assert_eq!(source("").resolve(Path::new("chap/a")), Path::new("/etc/chap/a"));
        assert_eq!(source("").resolve(Path::new("/run/a")), Path::new("/run/a"));
    }
}
