//! A model as a TOML file that means the same, always in the same order.

use super::document::{Document, Model};
use std::fmt::Write;
use toml::{Table, Value};

/// Tables with more entries stand apart, with a line for each.
const INLINE: usize = 4;

/// The file. Secrets are named, never told.
pub(crate) fn to_toml(model: &Model) -> Result<String, toml::ser::Error> {
    document_to_toml(&Document::from(model))
}

/// The file of a document, in its order.
pub(crate) fn document_to_toml(document: &Document) -> Result<String, toml::ser::Error> {
    let mut out = String::new();
    body(&mut out, "", &Table::try_from(document)?);
    Ok(out.trim_start().to_owned())
}

/// What stands under a header, and then what has headers of its own. `path` is the header, empty for the file.
fn body(out: &mut String, path: &str, table: &Table) {
    let (apart, within): (Vec<_>, Vec<_>) =
        table.iter().partition(|(key, value)| has_header(path.is_empty(), key, value));
    for (key, value) in within {
        let _ = writeln!(out, "{} = {}", name(key), Inline(value));
    }
    for (key, value) in apart {
        let inner = if path.is_empty() { name(key) } else { format!("{path}.{}", name(key)) };
        match value {
            Value::Array(tables) => {
                for table in tables.iter().filter_map(Value::as_table) {
                    let _ = writeln!(out, "\n[[{inner}]]");
                    body(out, &inner, table);
                }
            }
            Value::Table(table) => {
                let _ = writeln!(out, "\n[{inner}]");
                body(out, &inner, table);
            }
            _ => {}
        }
    }
}

fn has_header(is_file: bool, key: &str, value: &Value) -> bool {
    match value {
        Value::Table(table) => is_file || key == "parameters" || table.len() > INLINE,
        Value::Array(list) => (is_file || key == "access") && list.iter().all(Value::is_table),
        _ => false,
    }
}

/// A key, in quotation marks if it needs them.
fn name(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => Value::from(key).to_string(),
    }
}

/// A value in a line, but for lists of tables, which have a line for each.
struct Inline<'a>(&'a Value);

impl std::fmt::Display for Inline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Array(list) if list.len() > 1 && list.iter().all(Value::is_table) => {
                f.write_str("[\n")?;
                for value in list {
                    writeln!(f, "    {},", Inline(value))?;
                }
                f.write_str("]")
            }
            Value::Table(table) => {
                f.write_str("{ ")?;
                for (index, (key, value)) in table.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{} = {}", name(key), Inline(value))?;
                }
                f.write_str(if table.is_empty() { "}" } else { " }" })
            }
            other => write!(f, "{other}"),
        }
    }
}
